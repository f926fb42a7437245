//! TREC files: judgements (`topic 0 document grade`) and rankings (`topic Q0 document rank score run`), read, written, and measured as
//! trec_eval does: a ranking is sorted by score, ties by document, both descending; the rank that is written is not looked at.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs, io,
    path::Path,
};

use crate::dataset::Error;

/// Grades by topic and document.
pub type Qrels = BTreeMap<String, HashMap<String, i32>>;

/// Documents of each topic, best first.
pub type Run = BTreeMap<String, Vec<Ranked>>;

#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    pub document: String,
    pub score: f32,
}

/// Ids are separated by white space: what of them is white space, a `%`, or a `#` in the beginning, is written as %XX of its UTF-8.
pub fn escaped(id: &str) -> String {
    let mut written = String::with_capacity(id.len());
    for (at, letter) in id.chars().enumerate() {
        match letter.is_whitespace() || letter == '%' || (letter == '#' && at == 0) {
            true => letter.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| written.push_str(&format!("%{byte:02X}"))),
            false => written.push(letter),
        }
    }
    written
}

pub fn read_qrels(path: &Path) -> Result<Qrels, Error> {
    let mut qrels = Qrels::new();
    let expected = "`topic 0 document grade`";
    for_each_line(path, "TREC judgements", |fields| {
        let [topic, _, document, grade] = fields else { return Err(expected) };
        let grade = grade.parse().map_err(|_| expected)?;
        match qrels.entry((*topic).to_owned()).or_default().insert((*document).to_owned(), grade) {
            None => Ok(()),
            Some(_) => Err("each document judged once for a topic"),
        }
    })?;
    Ok(qrels)
}

pub fn read_run(path: &Path) -> Result<Run, Error> {
    let mut run = Run::new();
    let expected = "`topic Q0 document rank score run`";
    for_each_line(path, "a TREC run", |fields| {
        let [topic, _, document, _, score, _] = fields else { return Err(expected) };
        let score: f32 = score.parse().ok().filter(|score: &f32| !score.is_nan()).ok_or(expected)?;
        run.entry((*topic).to_owned()).or_default().push(Ranked { document: (*document).to_owned(), score });
        Ok(())
    })?;
    for (topic, ranked) in &mut run {
        ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| b.document.cmp(&a.document)));
        let mut documents: Vec<&str> = ranked.iter().map(|ranked| ranked.document.as_str()).collect();
        documents.sort_unstable();
        if let Some(twice) = documents.windows(2).find(|pair| pair[0] == pair[1]) {
            let received = format!("{:?} twice for {topic:?}", twice[0]);
            let expected = "each document once for a topic".to_owned();
            return Err(Error::Odd { path: path.to_owned(), expected, received });
        }
    }
    Ok(run)
}

/// The fields of each line, without comments.
fn for_each_line(
    path: &Path,
    what: &str,
    mut take: impl FnMut(&[&str]) -> Result<(), &'static str>,
) -> Result<(), Error> {
    let text = text(path, what)?;
    for (at, line) in text.lines().enumerate() {
        // Ids may have a # in them; a field that begins with one begins a comment.
        let fields: Vec<&str> = line.split_whitespace().take_while(|field| !field.starts_with('#')).collect();
        if fields.is_empty() {
            continue;
        }
        take(&fields).map_err(|expected| {
            let received = format!("line {}: {:?}", at + 1, line.chars().take(120).collect::<String>());
            Error::Odd { path: path.to_owned(), expected: expected.to_owned(), received }
        })?;
    }
    Ok(())
}

fn text(path: &Path, what: &str) -> Result<String, Error> {
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.to_owned(), expected: what.to_owned() },
        _ => Error::Io { path: path.to_owned(), error },
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The lines of a qrels file.
pub fn qrels_text(qrels: &Qrels) -> String {
    let mut text = String::new();
    for (topic, grades) in qrels {
        let mut sorted: Vec<_> = grades.iter().collect();
        sorted.sort_unstable();
        for (document, grade) in sorted {
            writeln!(text, "{} 0 {} {grade}", escaped(topic), escaped(document)).expect("a string grows");
        }
    }
    text
}

/// The lines of one topic in a run file. trec_eval puts documents of equal scores in descending order of their ids.
pub fn run_text<'a>(topic: &str, ranked: impl Iterator<Item = (&'a str, f32)>, name: &str) -> String {
    let (mut text, topic, name) = (String::new(), escaped(topic), escaped(name));
    for (place, (document, score)) in ranked.enumerate() {
        writeln!(text, "{topic} Q0 {} {} {score} {name}", escaped(document), place + 1).expect("a string grows");
    }
    text
}

/// A measure of a topic, or of all.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    pub name: String,
    pub value: f64,
    /// Whether it counts things, and is printed as a whole number.
    pub is_count: bool,
}

const CUTS: [usize; 9] = [5, 10, 15, 20, 30, 100, 200, 500, 1000];
const SUCCESS_CUTS: [usize; 3] = [1, 5, 10];
/// Least average precision that counts in a geometric mean.
const LEAST_MAP: f64 = 0.00001;

/// Of each topic that is judged and ranked, and of all of them.
pub fn measures(qrels: &Qrels, run: &Run) -> (BTreeMap<String, Vec<Measure>>, Vec<Measure>) {
    let both = run.iter().filter_map(|(topic, ranked)| Some((topic, ranked, qrels.get(topic)?)));
    let of_topic: BTreeMap<String, Vec<Measure>> =
        both.map(|(topic, ranked, grades)| (topic.clone(), of_topic(ranked, grades))).collect();
    let n = of_topic.len() as f64;
    let mut all = vec![Measure { name: "num_q".to_owned(), value: n, is_count: true }];
    let Some(first) = of_topic.values().next() else { return (of_topic, all) };
    for (place, Measure { name, is_count, .. }) in first.iter().enumerate() {
        let values = || of_topic.values().map(|measures| measures[place].value);
        let sum: f64 = values().sum();
        let value = if *is_count { sum } else { sum / n };
        all.push(Measure { name: name.clone(), value, is_count: *is_count });
        if name == "map" {
            let logs: f64 = values().map(|value| value.max(LEAST_MAP).ln()).sum();
            all.push(Measure { name: "gm_map".to_owned(), value: (logs / n).exp(), is_count: false });
        }
    }
    (of_topic, all)
}

fn of_topic(ranked: &[Ranked], grades: &HashMap<String, i32>) -> Vec<Measure> {
    let found: Vec<Option<i32>> = ranked.iter().map(|ranked| grades.get(&ranked.document).copied()).collect();
    let is_relevant: Vec<bool> = found.iter().map(|grade| grade.is_some_and(|grade| grade > 0)).collect();
    let n_relevant = grades.values().filter(|&&grade| grade > 0).count();
    // How many are relevant among the first so many.
    let mut among = vec![0usize];
    is_relevant.iter().for_each(|&is| among.push(among[among.len() - 1] + usize::from(is)));
    let first = |cut: usize| among[cut.min(among.len() - 1)];
    let of_relevant = |value: f64| if n_relevant == 0 { 0.0 } else { value / n_relevant as f64 };
    let precision = |place: usize| first(place) as f64 / place as f64;

    let mut measures = Vec::new();
    let mut add = |name: String, value: f64| measures.push(Measure { name, value, is_count: false });
    let places = || (1..=ranked.len()).filter(|&place| is_relevant[place - 1]);
    add("map".into(), of_relevant(places().map(precision).sum()));
    add("Rprec".into(), of_relevant(first(n_relevant) as f64));
    add("bpref".into(), of_relevant(preference(&found, grades, n_relevant)));
    add("recip_rank".into(), places().next().map_or(0.0, |place| 1.0 / place as f64));
    for tenths in 0..=10 {
        let recall = f64::from(tenths) / 10.0;
        add(
            format!("iprec_at_recall_{recall:.2}"),
            interpolated(&among, (recall * n_relevant as f64).round() as usize),
        );
    }
    CUTS.iter().for_each(|&cut| add(format!("P_{cut}"), precision(cut)));
    CUTS.iter().for_each(|&cut| add(format!("recall_{cut}"), of_relevant(first(cut) as f64)));
    SUCCESS_CUTS.iter().for_each(|&cut| add(format!("success_{cut}"), f64::from(u8::from(first(cut) > 0))));
    let gains: Vec<i32> = found.iter().map(|grade| grade.unwrap_or(0)).collect();
    let mut ideal: Vec<i32> = grades.values().copied().collect();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    let ndcg = |cut: usize| {
        let best = gained(&ideal, cut);
        if best > 0.0 { gained(&gains, cut) / best } else { 0.0 }
    };
    add("ndcg".into(), ndcg(usize::MAX));
    CUTS.iter().for_each(|&cut| add(format!("ndcg_cut_{cut}"), ndcg(cut)));

    let counts = [("num_ret", ranked.len()), ("num_rel", n_relevant), ("num_rel_ret", first(ranked.len()))];
    let counts = counts.map(|(name, n)| Measure { name: name.to_owned(), value: n as f64, is_count: true });
    counts.into_iter().chain(measures).collect()
}

fn gained(gains: &[i32], cut: usize) -> f64 {
    let worth = |(place, &gain): (usize, &i32)| f64::from(gain.max(0)) / (place as f64 + 2.0).log2();
    gains.iter().take(cut).enumerate().map(worth).sum()
}

/// Sum over relevant ones of how few judged ones that are not stand before (Buckley and Voorhees 2004).
fn preference(found: &[Option<i32>], grades: &HashMap<String, i32>, n_relevant: usize) -> f64 {
    let n_others = grades.values().filter(|&&grade| grade == 0).count();
    let least = n_relevant.min(n_others);
    let (mut before, mut sum) = (0, 0.0);
    for grade in found.iter().flatten() {
        match grade {
            0 => before += 1,
            1.. if before == 0 => sum += 1.0,
            1.. => sum += 1.0 - before.min(n_relevant) as f64 / least as f64,
            _ => {}
        }
    }
    sum
}

/// The best precision at or after the place where so many relevant ones are found; 0 if they never are.
fn interpolated(among: &[usize], n_wanted: usize) -> f64 {
    let places = (1..among.len()).filter(|&place| among[place] >= n_wanted);
    places.map(|place| among[place] as f64 / place as f64).fold(0.0, f64::max)
}

/// As trec_eval prints them: name, topic, value.
pub fn printed(measures: &[Measure], topic: &str) -> String {
    let line = |Measure { name, value, is_count }: &Measure| match is_count {
        true => format!("{name:<22}\t{topic}\t{value}\n"),
        false => format!("{name:<22}\t{topic}\t{value:.4}\n"),
    };
    measures.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(name: &str) -> Option<std::path::PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/bench_trec_eval/test");
        if !folder.exists() {
            println!("skipped: {} is not there", folder.display());
        }
        folder.exists().then(|| folder.join(name))
    }

    /// Lines of a printed output as (name, topic) to value.
    fn expected(path: &Path) -> BTreeMap<(String, String), String> {
        let text = fs::read_to_string(path).unwrap();
        let line = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            ((fields[0].to_owned(), fields[1].to_owned()), fields[2].to_owned())
        };
        text.lines().map(line).collect()
    }

    /// Every figure that trec_eval prints for its own test files, by topic and of all.
    #[test]
    fn figures_are_those_of_trec_eval() {
        let Some(qrels) = data("qrels.test") else { return };
        let run = read_run(&data("results.test").unwrap()).unwrap();
        let check = |qrels: &Path, printed_by_trec_eval: &str, least: usize| {
            let (of_topic, all) = measures(&read_qrels(qrels).unwrap(), &run);
            let mut ours = printed(&all, "all");
            of_topic.iter().for_each(|(topic, measures)| ours.push_str(&printed(measures, topic)));
            let expected = expected(&data(printed_by_trec_eval).unwrap());
            let mut n_checked = 0;
            for line in ours.lines() {
                let fields: Vec<&str> = line.split_whitespace().collect();
                if let Some(value) = expected.get(&(fields[0].to_owned(), fields[1].to_owned())) {
                    assert_eq!(fields[2], value, "{line}");
                    n_checked += 1;
                }
            }
            assert!(n_checked >= least, "{printed_by_trec_eval}: {n_checked}");
            (expected, ours)
        };
        // Nothing that it prints by default is missing but the name of the run.
        let (all, ours) = check(&qrels, "out.test", 29);
        for (name, _) in all.keys().filter(|(name, _)| name != "runid") {
            assert!(ours.contains(&format!("{name} ")), "{name}");
        }
        check(&qrels, "out.test.a", 51);
        check(&qrels, "out.test.aq", 198);
        check(&data("qrels.test.with-comments").unwrap(), "out.test", 29);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_once() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("nowhere");
        let check = |error: Error, said: &str| {
            assert!(std::error::Error::source(&error).is_none(), "{error:?}");
            assert_eq!(error.to_string().replace(&dir.path().display().to_string(), "DIR"), said);
        };
        check(read_qrels(&missing).unwrap_err(), "DIR/nowhere: expected TREC judgements, it is not there");
        check(read_run(&missing).unwrap_err(), "DIR/nowhere: expected a TREC run, it is not there");
        check(read_run(dir.path()).unwrap_err(), "DIR: Is a directory (os error 21)");
    }

    #[test]
    fn what_is_written_is_read_and_what_is_odd_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let write = |text: &str| fs::write(&path, text).unwrap();
        let grades = HashMap::from([("a b".to_owned(), 2), ("#ü#%".to_owned(), 1)]);
        write(&qrels_text(&Qrels::from([("q 1".to_owned(), grades)])));
        let qrels = read_qrels(&path).unwrap();
        assert_eq!(qrels["q%201"], HashMap::from([("a%20b".to_owned(), 2), ("%23ü#%25".to_owned(), 1)]));
        write(&run_text("q 1", [("a b", 0.5), ("x", 0.25), ("y", 0.25)].into_iter(), "me"));
        let run = read_run(&path).unwrap();
        assert_eq!(run["q%201"].iter().map(|ranked| ranked.document.as_str()).collect::<Vec<_>>(), ["a%20b", "y", "x"]);
        let measured = measures(&qrels, &run).1;
        assert_eq!(measured.iter().find(|measure| measure.name == "success_1").unwrap().value, 1.0);

        let fails = |read: &dyn Fn(&Path) -> Option<Error>, text: &str, part: &str| {
            write(text);
            let error = read(&path).expect(text).to_string();
            assert!(error.contains(part), "{error}");
        };
        let qrels = |path: &Path| read_qrels(path).err();
        let run = |path: &Path| read_run(path).err();
        fails(&qrels, "1 0 a 1\n1 0 b\n", "line 2: \"1 0 b\"");
        fails(&qrels, "1 0 a x\n", "topic 0 document grade");
        fails(&qrels, "1 0 a 1\n1 0 a 0\n", "judged once");
        fails(&run, "1 Q0 a 1 NaN me\n", "line 1");
        fails(&run, "1 Q0 a 1 2 me\n1 Q0 a 2 1 me\n", "\"a\" twice for \"1\"");
        assert!(measures(&Qrels::new(), &Run::new()).1[0].value == 0.0);
    }
}
