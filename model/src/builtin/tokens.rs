//! Text to hashed features, without a vocabulary file.
//!
//! A token is a word (Unicode segmentation, NFKC, lower case) or, in scripts that write no spaces, one letter. Its features
//! are hashes of the word and of its letter n-grams, so a word never seen still shares rows with its relatives.

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// Longest part of a word that is looked at, in letters.
const MAX_WORD_LETTERS: usize = 32;
const NGRAMS: std::ops::RangeInclusive<usize> = 3..=5;
/// Neighbours on each side that a letter of a script without spaces is read together with.
const REACH: usize = 1;

/// Rows of the table for each token, token after token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    rows: Vec<u32>,
    /// Where each token's rows end.
    ends: Vec<usize>,
    /// Tokens beyond the limit.
    pub n_cut: usize,
}

impl Tokens {
    pub fn read(text: &str, n_rows: usize, max_tokens: usize) -> Tokens {
        let folded: String = text.nfkc().flat_map(char::to_lowercase).collect();
        let mut tokens = Tokens::default();
        let mut hasher = Hasher { n_rows, word: Vec::new() };
        for word in folded.unicode_words() {
            if word.chars().any(is_unspaced) {
                hasher.letters(word, &mut tokens, max_tokens);
            } else {
                hasher.word(word, &mut tokens, max_tokens);
            }
        }
        hasher.end_run(&mut tokens, max_tokens);
        tokens
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn rows_of(&self, token: usize) -> &[u32] {
        let start = if token == 0 { 0 } else { self.ends[token - 1] };
        &self.rows[start..self.ends[token]]
    }

    fn push(&mut self, rows: impl IntoIterator<Item = u32>, max_tokens: usize) {
        if self.len() == max_tokens {
            self.n_cut += 1;
            return;
        }
        self.rows.extend(rows);
        self.ends.push(self.rows.len());
    }
}

struct Hasher {
    n_rows: usize,
    /// Letters of a run in a script without spaces, not yet made into tokens.
    word: Vec<char>,
}

impl Hasher {
    fn word(&mut self, word: &str, tokens: &mut Tokens, max_tokens: usize) {
        self.end_run(tokens, max_tokens);
        let marked: Vec<char> = ['<'].into_iter().chain(word.chars().take(MAX_WORD_LETTERS)).chain(['>']).collect();
        let whole = std::iter::once(self.row(&marked, 1));
        let ngrams = NGRAMS.flat_map(|n| marked.windows(n)).filter(|ngram| ngram.len() < marked.len());
        let rows: Vec<u32> = whole.chain(ngrams.map(|ngram| self.row(ngram, 2))).collect();
        tokens.push(rows, max_tokens);
    }

    fn letters(&mut self, word: &str, tokens: &mut Tokens, max_tokens: usize) {
        for letter in word.chars() {
            self.word.push(letter);
            if self.word.len() == 4096 {
                self.end_run(tokens, max_tokens);
            }
        }
    }

    /// Each letter of the run alone, with its neighbour on either side, and with both.
    fn end_run(&mut self, tokens: &mut Tokens, max_tokens: usize) {
        let run = std::mem::take(&mut self.word);
        for at in 0..run.len() {
            let (from, to) = (at.saturating_sub(REACH), (at + 1 + REACH).min(run.len()));
            let rows = [
                self.row(&run[at..=at], 3),
                self.row(&run[from..=at], 4),
                self.row(&run[at..to], 5),
                self.row(&run[from..to], 6),
            ];
            tokens.push(rows, max_tokens);
        }
    }

    /// FNV-1a over the letters, mixed once more, so that the low bits are good.
    fn row(&self, letters: &[char], kind: u64) -> u32 {
        let mut hash = letters.iter().fold(0xcbf2_9ce4_8422_2325 ^ kind, |hash: u64, &letter| {
            (hash ^ u64::from(u32::from(letter))).wrapping_mul(0x100_0000_01b3)
        });
        hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((hash >> 32) % self.n_rows as u64) as u32
    }
}

/// Scripts that write no spaces between words: Han, kana, Thai, Lao, Myanmar, Khmer.
pub(crate) fn is_unspaced(letter: char) -> bool {
    matches!(u32::from(letter), 0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3005..=0x30ff | 0x3400..=0x4dbf
        | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x323af)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_letters_are_counted() {
        let check = |text: &str, expected: usize| {
            assert_eq!(Tokens::read(text, 1000, 256).len(), expected, "{text:?}");
        };
        check("Three red stars.", 3);
        check("", 0);
        check(" ?!… ", 0);
        check("三颗红色的星星", 7);
        check("赤いボール", 5);
        check("ดาวสีแดง three", 9);
        check("ثلاث نجوم حمراء", 3);
        check("a星b", 3);
    }

    #[test]
    fn case_and_width_are_folded() {
        assert_eq!(Tokens::read("ROT", 1 << 20, 8), Tokens::read("rot", 1 << 20, 8));
        assert_eq!(Tokens::read("ｒｅｄ", 1 << 20, 8), Tokens::read("red", 1 << 20, 8));
        assert_ne!(Tokens::read("red", 1 << 20, 8), Tokens::read("bed", 1 << 20, 8));
    }

    #[test]
    fn what_is_over_the_limit_is_counted() {
        let tokens = Tokens::read(&"word ".repeat(300), 1000, 256);
        assert_eq!((tokens.len(), tokens.n_cut), (256, 44));
        let tokens = Tokens::read(&"星".repeat(10_000), 1000, 256);
        assert_eq!((tokens.len(), tokens.n_cut), (256, 9_744));
    }

    #[test]
    fn relatives_share_features() {
        let rows = |word: &str| Tokens::read(word, 1 << 24, 8).rows_of(0).to_vec();
        let (red, reds, boat) = (rows("rote"), rows("roter"), rows("boot"));
        let shared = |a: &[u32], b: &[u32]| a.iter().filter(|row| b.contains(row)).count();
        assert!(shared(&red, &reds) >= 3);
        assert!(shared(&red, &boat) <= 1);
    }
}
