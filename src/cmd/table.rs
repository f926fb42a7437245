//! Tables and lines for people.

use firn_index::Payload;

use crate::query::Answer;

/// Prints columns as wide as their widest cell; the last one runs free.
pub fn print(head: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = head.iter().map(|h| width(h)).collect();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            widths[column] = widths[column].max(width(cell));
        }
    }
    print_row(&head.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>(), &widths);
    for row in rows {
        print_row(row, &widths);
    }
}

fn print_row(cells: &[String], widths: &[usize]) {
    let mut line = String::new();
    for (cell, &wide) in cells.iter().zip(widths) {
        line.push_str(cell);
        line.push_str(&" ".repeat(wide.saturating_sub(width(cell)) + 2));
    }
    println!("{}", printable(line.trim_end()));
}

/// Stored text must not command the terminal: control characters are shown as their Unicode pictures.
pub(super) fn printable(text: &str) -> String {
    let picture = |c: char| match c as u32 {
        code @ 0..=0x1f => char::from_u32(0x2400 + code).unwrap_or(' '),
        0x7f => '\u{2421}',
        0x80..=0x9f | 0x200e | 0x200f | 0x202a..=0x202e | 0x2066..=0x2069 => ' ',
        _ => c,
    };
    text.chars().map(picture).collect()
}

/// Columns a text takes in a terminal: two for East Asian wide characters, none for combining marks.
pub fn width(text: &str) -> usize {
    text.chars()
        .map(|c| match c as u32 {
            0x0300..=0x036f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
            0x1100..=0x115f
            | 0x2e80..=0xa4cf
            | 0xac00..=0xd7a3
            | 0xf900..=0xfaff
            | 0xfe30..=0xfe6f
            | 0xff00..=0xff60 => 2,
            0x1f300..=0x1faff => 2,
            _ => 1,
        })
        .sum()
}

/// At most `max` columns, with an ellipsis where something was left out.
pub fn shorten(text: &str, max: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if width(&text) <= max {
        return text;
    }
    let mut short = String::new();
    for c in text.chars() {
        if width(&short) + width(c.encode_utf8(&mut [0; 4])) + 1 > max {
            break;
        }
        short.push(c);
    }
    format!("{}…", short.trim_end())
}

/// A payload in one line.
pub fn payload_line(payload: &Payload) -> String {
    let field = |(key, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => format!("{key}={text}"),
        other => format!("{key}={other}"),
    };
    shorten(&payload.iter().map(field).collect::<Vec<_>>().join(" "), 100)
}

/// A number and what it counts: "1 hit", "2 hits".
pub fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Where the time went.
pub fn timings_line(answer: &Answer) -> String {
    let t = &answer.timings;
    let ms = |us: u64| format!("{:.2} ms", us as f64 / 1000.0);
    format!(
        "{} in {}: encode {}, retrieve {}, merge {}, rerank {}, fetch {}",
        counted(answer.hits.len(), "hit"),
        ms(t.total_us),
        ms(t.encode_us),
        ms(t.retrieve_us),
        ms(t.merge_us),
        ms(t.rerank_us),
        ms(t.fetch_us)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_sent() {
        assert_eq!(printable("a\u{1b}[2J\u{7}\nb"), "a␛[2J␇␊b");
        assert_eq!(printable("ein Haus, 红色"), "ein Haus, 红色");
    }

    #[test]
    fn widths_and_shortening() {
        assert_eq!(width("abc"), 3);
        assert_eq!(width("红色"), 4);
        assert_eq!(shorten("a  long\nline", 20), "a long line");
        assert_eq!(shorten("红色的星星", 7), "红色的…");
    }
}
