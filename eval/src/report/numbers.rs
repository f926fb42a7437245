//! How numbers are said. What is not finite is "-".

use crate::measures::{Estimate, Gain};

/// A share in percent: "57.4".
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1}", tidy(100.0 * share)) } else { "-".to_owned() }
}

/// In percent with its standard error: "57.4 ± 1.2".
pub fn estimate(of: Estimate) -> String {
    match of.value.is_finite() {
        true => format!("{} ± {}", percent(of.value), percent(of.error)),
        false => "-".to_owned(),
    }
}

/// In points with its 95 % interval: "+5.3 [+3.1, +7.5]".
pub fn gain(of: Gain) -> String {
    match (of.difference.is_finite(), of.interval.iter().all(|end| end.is_finite())) {
        (false, _) => "-".to_owned(),
        (true, false) => format!("{} [-]", points(of.difference)),
        (true, true) => {
            format!("{} [{}, {}]", points(of.difference), points(of.interval[0]), points(of.interval[1]))
        }
    }
}

/// Percentage points with their sign.
pub fn points(share: f64) -> String {
    if share.is_finite() { format!("{:+.1}", tidy(100.0 * share)) } else { "-".to_owned() }
}

/// A share of resamples: below what they can tell apart it is not said exactly.
pub fn p(value: f64) -> String {
    match value {
        value if !value.is_finite() => "-".to_owned(),
        value if value < 0.001 => "< 0.001".to_owned(),
        value => format!("{value:.3}"),
    }
}

/// With commas: "7,805".
pub fn count(n: usize) -> String {
    let digits = n.to_string();
    let mut said = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            said.push(',');
        }
        said.push(digit);
    }
    said
}

/// A number with the noun it counts: "1 document", "7,805 documents".
pub fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// In the unit that suits it: "1.25 ms".
pub fn time(seconds: f64) -> String {
    let (scaled, unit) = match seconds.abs() {
        size if !size.is_finite() => return "-".to_owned(),
        size if size >= 1.0 || size == 0.0 => (seconds, "s"),
        size if size >= 1e-3 => (seconds * 1e3, "ms"),
        _ => (seconds * 1e6, "µs"),
    };
    let decimals = if scaled.abs() >= 100.0 {
        0
    } else if scaled.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{scaled:.decimals$} {unit}")
}

/// A score as it is ranked by.
pub fn score(of: f32) -> String {
    if of.is_finite() { format!("{of:.4}") } else { "-".to_owned() }
}

/// What rounds to nothing has no sign.
fn tidy(value: f64) -> f64 {
    if value.abs() < 0.05 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_shortly() {
        let cases = [
            (percent(0.5744), "57.4"),
            (percent(f64::NAN), "-"),
            (estimate(Estimate { value: 0.574, error: 0.012 }), "57.4 ± 1.2"),
            (estimate(Estimate { value: 0.574, error: f64::NAN }), "57.4 ± -"),
            (estimate(Estimate { value: f64::NAN, error: 0.0 }), "-"),
            (gain(Gain { difference: 0.053, interval: [-0.0001, 0.075], p: 0.0 }), "+5.3 [+0.0, +7.5]"),
            (gain(Gain { difference: f64::NAN, interval: [0.0; 2], p: 0.0 }), "-"),
            (gain(Gain { difference: 0.053, interval: [f64::NAN; 2], p: 0.0 }), "+5.3 [-]"),
            (p(0.0), "< 0.001"),
            (p(0.0123), "0.012"),
            (p(f64::NAN), "-"),
            (count(0), "0"),
            (count(999), "999"),
            (count(1_246_901), "1,246,901"),
            (time(0.0), "0.00 s"),
            (time(754.2), "754 s"),
            (time(0.00125), "1.25 ms"),
            (time(0.0000421), "42.1 µs"),
            (time(f64::NAN), "-"),
            (score(f32::NAN), "-"),
            (score(0.31337), "0.3134"),
        ];
        for (said, expected) in cases {
            assert_eq!(said, expected);
        }
    }
}
