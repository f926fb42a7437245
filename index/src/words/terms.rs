//! A text as the terms it is found by: the same for what is stored and for what is asked, in any language, without a dictionary.
//!
//! Words by UAX #29, further apart at apostrophes (French "l'homme" holds "homme"), compatible forms and cases folded (NFKC), accents
//! and Arabic vowel points dropped. Scripts that put no spaces between words give overlapping pairs of characters; a Han character is
//! a term of its own too, being a word more often than not. Words are not stemmed.

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// Of a longer word, the beginning.
const MAX_CHARS: usize = 64;

/// In the order of the text, repeated as they are.
pub fn terms(text: &str) -> Vec<String> {
    let folded = fold(text);
    let mut terms = Vec::new();
    // Characters that stand side by side without a space, and where they end.
    let (mut run, mut run_end) = (String::new(), 0);
    for (start, word) in folded.unicode_word_indices() {
        if start != run_end {
            end_run(&mut run, &mut terms);
        }
        if word.chars().any(is_unspaced) {
            run.push_str(word);
            run_end = start + word.len();
        } else {
            end_run(&mut run, &mut terms);
            let parts = word.split(['\'', '’']).filter(|part| !part.is_empty());
            terms.extend(parts.map(|part| part.chars().take(MAX_CHARS).collect::<String>()));
        }
    }
    end_run(&mut run, &mut terms);
    terms
}

fn fold(text: &str) -> String {
    let is_kept = |c: &char| !matches!(c, '\u{300}'..='\u{36f}' | '\u{64b}'..='\u{652}' | '\u{640}');
    text.nfkd().filter(is_kept).flat_map(char::to_lowercase).nfc().collect()
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
        check("Straße Ａｂｃ ﬁn", "straße abc fin");
        check("ΌΧΙ Ёлка й", "οχι елка и");
        check("وَلَدٌ كـبير", "ولد كبير");
        check("हिन्दी में", "हिन्दी में");
        check("红色的车", "红 红色 色 色的 的 的车 车");
        check("猫", "猫");
        check("猫がカメラ2台", "猫 猫が がカ カメ メラ 2 台");
        check("고양이가 두", "고양 양이 이가 두");
        check("แมว ดำ", "แม มว ด\u{e4d} \u{e4d}า");
        assert_eq!(terms(&"x".repeat(1000)), ["x".repeat(MAX_CHARS)]);
    }
}
