//! A file that holds one vector: a JSON list, a NumPy array, or numbers between white space.

use anyhow::{Context as _, anyhow, bail};

/// Reads the numbers; the kind is seen from the first bytes.
pub fn parse(bytes: &[u8]) -> anyhow::Result<Vec<f32>> {
    if bytes.starts_with(b"\x93NUMPY") {
        return firn_ingest::source::npy::vector(bytes).map_err(|fault| anyhow!("{fault}"));
    }
    let text = std::str::from_utf8(bytes).context("neither a NumPy array nor text")?.trim();
    let vector: Vec<f32> = if text.starts_with('[') {
        serde_json::from_str(text).context("not a JSON list of numbers")?
    } else {
        let number = |word: &str| word.parse().with_context(|| format!("{word:?} is not a number"));
        text.split(|c: char| c.is_whitespace() || c == ',')
            .filter(|w| !w.is_empty())
            .map(number)
            .collect::<Result<_, _>>()?
    };
    if vector.is_empty() {
        bail!("no numbers in it");
    }
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_files() {
        for text in ["[1, 2.5, -3]", "1 2.5 -3\n", "1,2.5,-3", " 1\n2.5\n-3\n"] {
            assert_eq!(parse(text.as_bytes()).unwrap(), [1.0, 2.5, -3.0], "{text}");
        }
        for text in ["", "[]", "[1, \"a\"]", "one two", "\u{1}"] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?} was taken");
        }
    }
}
