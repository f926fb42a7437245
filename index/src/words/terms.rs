//! A text as the terms it is found by: the same for what is stored and for what is asked, in any language, without a dictionary.
//!
//! Words by UAX #29, further apart at what it keeps inside a word, such as apostrophes (French "l'homme" holds "homme"), and where a script
//! that puts no spaces between words begins or ends; compatible forms and cases folded (NFKC), accents, the points of Arabic and Hebrew,
//! and what is not seen dropped. Scripts without spaces give overlapping pairs of characters; a Han character is a term of its own too,
//! being a word more often than not. Words are not stemmed; emoji are not terms.

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// Of a longer word, the beginning.
const MAX_CHARS: usize = 64;

/// In the order of the text, repeated as they are.
pub fn terms(text: &str) -> Vec<String> {
    let folded = fold(text);
    let mut terms = Vec::new();
    // Characters of a script without spaces that stand side by side, and where they end.
    let (mut run, mut run_end) = (String::new(), 0);
    for (start, word) in folded.unicode_word_indices() {
        if start != run_end {
            end_run(&mut run, &mut terms);
        }
        for (kind, part) in parts(word) {
            if kind == Kind::Unspaced {
                run.push_str(&part);
                continue;
            }
            end_run(&mut run, &mut terms);
            if kind == Kind::Word {
                terms.push(part.chars().take(MAX_CHARS).collect());
            }
        }
        run_end = start + word.len();
    }
    end_run(&mut run, &mut terms);
    terms
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Unspaced,
    /// What stands between words.
    Mark,
}

/// The stretches of a word that are of one kind.
fn parts(word: &str) -> Vec<(Kind, String)> {
    let characters: Vec<char> = word.chars().collect();
    let mut parts: Vec<(Kind, String)> = Vec::new();
    for (place, &character) in characters.iter().enumerate() {
        let is_number = |at: Option<usize>| at.and_then(|at| characters.get(at)).is_some_and(|c| c.is_numeric());
        let is_inside_number = is_number(place.checked_sub(1)) && is_number(Some(place + 1));
        let kind = match character {
            '\'' | '\u{2018}' | '\u{2019}' | '\u{2bc}' | '_' => Kind::Mark,
            '.' | ',' | ':' | ';' | '\u{b7}' if !is_inside_number => Kind::Mark,
            character if is_unspaced(character) => Kind::Unspaced,
            _ => Kind::Word,
        };
        match parts.last_mut() {
            Some((last, part)) if *last == kind => part.push(character),
            _ => parts.push((kind, character.to_string())),
        }
    }
    parts
}

fn fold(text: &str) -> String {
    text.nfkd().filter(|c| !is_dropped(*c)).flat_map(char::to_lowercase).flat_map(alike).nfc().collect()
}

/// Accents and points that are often left out, and characters that are not seen.
fn is_dropped(c: char) -> bool {
    matches!(c,
        '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5bd}' | '\u{5bf}' | '\u{5c1}' | '\u{5c2}' | '\u{5c4}' | '\u{5c5}' | '\u{5c7}'
        | '\u{640}' | '\u{64b}'..='\u{652}' | '\u{670}'
        | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
    )
}

/// Lower-case letters that are written in two ways, and those whose stroke is no accent to Unicode.
fn alike(c: char) -> impl Iterator<Item = char> {
    let (first, second) = match c {
        'ς' => ('σ', None),
        'ß' => ('s', Some('s')),
        'ł' => ('l', None),
        'đ' => ('d', None),
        'ø' => ('o', None),
        'æ' => ('a', Some('e')),
        'œ' => ('o', Some('e')),
        other => (other, None),
    };
    [Some(first), second].into_iter().flatten()
}

/// Pairs of neighbours, and what is a term alone.
fn end_run(run: &mut String, terms: &mut Vec<String>) {
    let characters: Vec<char> = run.chars().collect();
    for (place, &character) in characters.iter().enumerate() {
        if is_han(character) || characters.len() == 1 {
            terms.push(character.to_string());
        }
        terms.extend(characters.get(place + 1).map(|next| String::from_iter([character, *next])));
    }
    run.clear();
}

fn is_unspaced(c: char) -> bool {
    is_han(c)
        || matches!(c,
            '\u{e00}'..='\u{eff}'       // Thai, Lao
            | '\u{1000}'..='\u{109f}'   // Myanmar
            | '\u{1780}'..='\u{17ff}'   // Khmer
            | '\u{3040}'..='\u{30ff}'   // Hiragana, Katakana
            | '\u{31f0}'..='\u{31ff}'   // Katakana extensions
            | '\u{ac00}'..='\u{d7a3}'   // Hangul: particles hang on its words
        )
}

fn is_han(c: char) -> bool {
    matches!(c, '\u{3005}'..='\u{3007}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{323af}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_many_languages_as_terms() {
        let check = |text: &str, expected: &str| assert_eq!(terms(text).join(" "), expected, "{text:?}");
        check("", "");
        check(" -- !? \n", "");
        check("Two RED cubes, 3.5 m apart.", "two red cubes 3.5 m apart");
        check("A dog's ball; don’t!", "a dog s ball don t");
        check("L'été à Besançon", "l ete a besancon");
        check("Straße STRASSE Ａｂｃ ﬁn Łódź", "strasse strasse abc fin lodz");
        check("ΌΧΙ λόγος ΛΌΓΟΣ Ёлка й", "οχι λογοσ λογοσ елка и");
        check("وَلَدٌ كـبير می\u{200c}خواهم", "ولد كبير میخواهم");
        check("שָׁלוֹם שלום\u{200f}", "שלום שלום");
        check("Zusammen\u{ad}arbeit O‘Reilly", "zusammenarbeit o reilly");
        check("color:red red_kite kite.jpg 12:30 1,000", "color red red kite kite jpg 12 30 1,000");
        check("python을 2024년 カメラ_abc", "python 을 2024 년 カメ メラ abc");
        check("हिन्दी में", "हिन्दी में");
        check("红色的车", "红 红色 色 色的 的 的车 车");
        check("猫", "猫");
        check("猫がカメラ2台", "猫 猫が がカ カメ メラ 2 台");
        check("고양이가 두", "고양 양이 이가 두");
        check("แมว ดำ", "แม มว ด\u{e4d} \u{e4d}า");
        assert_eq!(terms(&"x".repeat(1000)), ["x".repeat(MAX_CHARS)]);
    }
}
