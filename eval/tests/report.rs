//! What a run leaves behind, as those see it who read it.

use std::path::{Path, PathBuf};

use firn_eval::report::{self, Run};
use firn_eval::results::{
    ALL_QUESTIONS, Bin, Direction, Failure, IndexSettings, Made, Question, Results, Shown, Stage,
};

/// Every second question gains by the second method; `n` in each direction.
fn results(n: usize, languages: &[&str]) -> Results {
    let question = |direction, at: usize| Question {
        direction,
        id: at.to_string(),
        cluster: at.to_string(),
        language: languages.get(at % languages.len().max(1)).copied().unwrap_or("").to_owned(),
        n_words: if direction == Direction::ToDocument { 10 + 60 * (at % 3) } else { 0 },
        ranks: vec![Some(1 + at as u32 % 2), Some(1)],
        ndcg: vec![0.5, 1.0],
        ..Question::default()
    };
    let of = |direction| (0..n).map(move |at| question(direction, at));
    Results {
        firn: "0.1.0".to_owned(),
        dataset: "urban1k".to_owned(),
        protocol: "first-line".to_owned(),
        about: "town scenes".to_owned(),
        n_documents: n,
        n_queries: n,
        is_as_published: true,
        own_judgements: false,
        data_hash: "123abc".to_owned(),
        notes: vec!["592.txt: a blank line".to_owned()],
        model: Made { name: "clip".to_owned(), hash: "abc".to_owned() },
        reranker: Some(Made { name: "net".to_owned(), hash: "def".to_owned() }),
        index: None,
        depth: 100,
        methods: vec!["exact".to_owned(), "rerank@50".to_owned()],
        stages: vec![
            Stage { name: "embed".to_owned(), seconds: 1.5, n: 1000 },
            Stage { name: ALL_QUESTIONS.to_owned(), seconds: 9.0, n: 24 },
        ],
        calibration: vec![Bin { n: 3, promised: 0.25, found: 0.5 }, Bin { n: 1, promised: 0.75, found: 0.5 }],
        failures: Vec::new(),
        questions: of(Direction::ToDocument).chain(of(Direction::ToQuery)).collect(),
    }
}

fn written(results: &Results) -> (tempfile::TempDir, impl Fn(&str) -> String + use<>) {
    let folder = tempfile::tempdir().unwrap();
    report::write(folder.path(), results).unwrap();
    let path = folder.path().to_owned();
    (folder, move |name: &str| std::fs::read_to_string(path.join(name)).unwrap())
}

#[test]
fn what_is_written_is_read_back() {
    let results = results(12, &["en", "de"]);
    let (folder, _) = written(&results);
    assert_eq!(report::read(folder.path()).unwrap(), results);
    // Again over it, and nothing but the four files.
    report::write(folder.path(), &results).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["questions.jsonl", "report.html", "report.md", "results.json"]);
    let missing = report::read(Path::new("/no/such/folder")).unwrap_err().to_string();
    assert!(missing.contains("results.json") && missing.contains("not there"), "{missing}");
}

#[test]
fn a_run_of_before_is_read() {
    let index = Some(IndexSettings { m: 16, ef_construction: 200, ef: 100, limit: 100 });
    let (folder, text) = written(&Results { index, ..results(4, &[]) });
    let mut stored: serde_json::Value = serde_json::from_str(&text("results.json")).unwrap();
    assert_eq!(stored["index"]["ef_construction"], 200);
    for name in ["is_as_published", "own_judgements", "data_hash", "index"] {
        assert!(stored.as_object_mut().unwrap().remove(name).is_some(), "{name}");
    }
    std::fs::write(folder.path().join("results.json"), stored.to_string()).unwrap();
    let expected = Results { is_as_published: false, data_hash: String::new(), ..results(4, &[]) };
    assert_eq!(report::read(folder.path()).unwrap(), expected);
}

#[test]
fn other_programs_find_gains_of_every_measure() {
    let one = Results { questions: results(1, &[]).questions, ..results(1, &[]) };
    let group = |of: &Results| -> serde_json::Value {
        let (_folder, text) = written(of);
        serde_json::from_str::<serde_json::Value>(&text("results.json")).unwrap()["groups"][0].clone()
    };
    let of_twelve = group(&results(12, &[]));
    assert_eq!(of_twelve["gains"][1]["difference"], 0.5);
    assert_eq!(of_twelve["gains_in_mrr"][1]["difference"], 0.25);
    assert_eq!(of_twelve["gains_at_5"][1], serde_json::json!({"difference": 0.0, "interval": [0.0, 0.0], "p": 1.0}));
    assert_eq!(of_twelve["gains_at_10"].as_array().unwrap().len(), 2);
    // One document has no error, which people see as a dash.
    let of_one = group(&one);
    assert!(of_one["methods"][1]["at_1"]["error"].is_null() && of_one["gains"][1]["p"].is_null());
    let table = report::table(&one);
    assert!(table.contains("100.0 ± - ") && !table.contains("100.0 ± 0.0"), "{table}");
}

#[test]
fn damage_is_named() {
    let check = |name: &str, damage: &dyn Fn(&str) -> String, expected: &str| {
        let (folder, text) = written(&results(4, &[]));
        let (whole, damaged) = (text(name), damage(&text(name)));
        assert_ne!(whole, damaged, "{expected}");
        std::fs::write(folder.path().join(name), damaged).unwrap();
        let error = report::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(expected), "{error}");
    };
    check("results.json", &|text| text[..text.len() / 2].to_owned(), "the results of a run");
    check("results.json", &|_| "[]".to_owned(), "the results of a run");
    check("results.json", &|text| text.replace("\"seconds\": 1.5", "\"seconds\": null"), "null");
    check("questions.jsonl", &|text| text.lines().skip(1).map(|line| format!("{line}\n")).collect(), "8 questions");
    check("questions.jsonl", &|text| text[..text.len() - 9].to_owned(), "line 8");
    check("questions.jsonl", &|text| text.replacen('\n', "\n\n", 1), "line 2");
    check("questions.jsonl", &|text| text.replacen("\"ranks\":[1,1]", "\"ranks\":[1]", 1), "1 ranks");
    check("questions.jsonl", &|text| text.replacen("\"ranks\":[1,1]", "\"ranks\":[0,1]", 1), "rank 0");
    let (folder, _) = written(&results(4, &[]));
    std::fs::remove_file(folder.path().join("questions.jsonl")).unwrap();
    assert!(report::read(folder.path()).unwrap_err().to_string().contains("questions.jsonl"));
}

#[test]
fn a_terminal_gets_aligned_columns() {
    let index = Some(IndexSettings { m: 16, ef_construction: 200, ef: 100, limit: 100 });
    let some = Results { dataset: "unknown".to_owned(), index, ..results(12, &["en"]) };
    let expected = "\
unknown, protocol first-line
============================

about   town scenes
counts  12 documents, 12 queries; looked at to place 100
model   clip (abc)
network net (def)
index   m 16, ef_construction 200, ef 100, 100 hits
firn    0.1.0

Notes:

- 592.txt: a blank line

- Text to image: R@1 50.0 ± 15.1 by exact, 100.0 ± 0.0 by rerank@50, a gain of +50.0 [+25.0, +75.0].
- Image to text: R@1 50.0 ± 15.1 by exact, 100.0 ± 0.0 by rerank@50, a gain of +50.0 [+25.0, +75.0].

Text to image
=============

12 questions about 12 documents; percent ± standard error.

method             R@1          R@5         R@10          MRR      nDCG@10     gain in R@1, 95 %        p
---------  -----------  -----------  -----------  -----------  -----------  --------------------  -------
exact      50.0 ± 15.1  100.0 ± 0.0  100.0 ± 0.0   75.0 ± 7.5   50.0 ± 0.0
rerank@50  100.0 ± 0.0  100.0 ± 0.0  100.0 ± 0.0  100.0 ± 0.0  100.0 ± 0.0  +50.0 [+25.0, +75.0]  < 0.001

Gains are over exact; p is two-sided, by paired bootstrap over documents. Re-ranked are the first candidates
of exact search: what the index loses is not part of it.
";
    let table = report::table(&some);
    assert!(table.starts_with(expected), "{table}");
    assert!(table.contains("Expected calibration error 25.0 % over 4 candidates."), "{table}");
    assert!(table.contains("candidates  promised, %  found, %\n"), "{table}");
    assert!(table.contains("embed          1.50 s  1,000       1.50 ms"), "{table}");
    assert!(table.contains("all questions  9.00 s     24        375 ms\n\n\"all questions\" is the whole"), "{table}");
    assert!(table.contains("is not how long one of them waits"), "{table}");
    for (dataset, protocol) in [("urban1k", "first-line"), ("dci", "flame"), ("xm3600", "first"), ("sharegpt4v", "1k")]
    {
        let of = Results { dataset: dataset.to_owned(), protocol: protocol.to_owned(), ..results(6, &["en", "de"]) };
        let table = report::table(&of);
        assert!(table.lines().all(|line| line.chars().count() <= 110), "{table}");
    }
}

#[test]
fn what_is_not_comparable_stands_apart() {
    let of = results(4, &[]);
    let (_folder, text) = written(&Results { dataset: "dci".to_owned(), protocol: "flame".to_owned(), ..of });
    let markdown = text("report.md");
    let (before, after) = markdown.split_once("## Published by another protocol: not comparable").unwrap();
    assert!(before.contains("| FLAME B/16, YFCC15M | 66.1 | 68.1 | FLAME (arXiv 2411.11927), README figure |"));
    assert!(before.contains("| exact | 50.0 | 50.0 | this run |"));
    assert!(!before.contains("fine-tuned") && !before.contains("HyFL-CLIP") && !before.contains("TULIP"));
    assert!(after.contains("fine-tuned on the train split") && after.contains("64.1/67.8"));
    // A mean of 36 languages is not comparable with two of them.
    let xm3600 = |languages: &[&str]| {
        let of = results(36, languages);
        report::table(&Results { dataset: "xm3600".to_owned(), protocol: "first".to_owned(), ..of })
    };
    assert!(!xm3600(&["en", "de"]).contains("mSigLIP"));
    let names: Vec<String> = (0..36).map(|at| format!("l{at}")).collect();
    assert!(xm3600(&names.iter().map(String::as_str).collect::<Vec<_>>()).contains("mSigLIP"));
}

#[test]
fn a_part_of_a_data_set_is_beside_no_published_figure() {
    let check = |of: Results, expected: &str| {
        let table = report::table(&of);
        let said = table.split_whitespace().collect::<Vec<&str>>().join(" ");
        assert!(said.contains(expected) && !table.contains("this run\n"), "{table}");
        let (_folder, text) = written(&of);
        let markdown = text("report.md");
        let (before, after) = markdown.split_once("## Published figures: not comparable").unwrap();
        let (lead, why) = expected.split_once(": ").unwrap();
        assert!(lead.ends_with("cannot be compared") && after.contains(&format!("; but {why}")), "{after}");
        assert!(!before.contains("FLAME B/16") && after.contains("FLAME B/16"), "{markdown}");
        assert!(text("report.html").contains("Published figures: not comparable"));
    };
    let part = Results { is_as_published: false, ..results(12, &[]) };
    let why = "29 published figures cannot be compared: this run has 12 of 1,000 documents and 12 of 1,000 queries.";
    check(part.clone(), why);
    let dci = |protocol: &str| Results { dataset: "dci".to_owned(), protocol: protocol.to_owned(), ..part.clone() };
    check(dci("flame"), "cannot be compared: this run has 12 of 7,805 documents and 12 of 7,805 queries.");
    check(dci("long-dci"), "cannot be compared: this run has 12 of 7,000 to 7,805 documents and");
    // Results of before.
    let whole = Results { n_documents: 1_000, n_queries: 1_000, ..part };
    check(whole, "cannot be compared: this run does not say whether its data set is whole.");
    let judged = Results { own_judgements: true, ..results(12, &[]) };
    check(judged, "cannot be compared: this run was judged by a file of its own, not by the data set's pairs.");
    let xm3600 = Results { dataset: "xm3600".to_owned(), protocol: "first".to_owned(), ..results(12, &["en", "de"]) };
    check(xm3600, "cannot be compared: this run asks in 2 of 36 languages.");
}

fn shown(id: &str, picture: Option<PathBuf>, text: Option<&str>) -> Shown {
    Shown { id: id.to_owned(), picture, text: text.map(str::to_owned), score: Some(0.25) }
}

#[test]
fn a_page_needs_nothing_but_itself() {
    let pictures = tempfile::tempdir().unwrap();
    let red = pictures.path().join("red.png");
    image::RgbImage::from_pixel(300, 200, image::Rgb([200, 0, 0])).save(&red).unwrap();
    let long = "ü<b>&".repeat(200);
    let failure = Failure {
        direction: Direction::ToDocument,
        query: shown("q<1>", None, Some(&long)),
        right: shown("right", Some(red), None),
        rank: None,
        above: vec![shown("gone", Some(pictures.path().join("gone.jpg")), None); 9],
    };
    let failures = vec![failure; 30];
    let of = results(12, &["en", "de"]);
    let (_folder, text) = written(&Results { about: "<script>alert(1)</script>".to_owned(), failures, ..of });
    let page = text("report.html");
    for foreign in ["<script", "src=\"http", "href=", "url(", "@import", "<b>&", "q<1>", "NaN"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("&lt;script&gt;") && page.contains("not among the first 100"));
    let count = |sign: &str| page.matches(sign).count();
    assert_eq!(count("<article>"), 20);
    assert_eq!((count("data:image/jpeg;base64,/9j/"), count("the picture cannot be read")), (20, 80));
    // 600 letters of five that repeat.
    assert_eq!((count("ü&lt;b&gt;&amp;") / 20, count("&amp;…</blockquote>")), (120, 20));
    // Curves and gains by language in both directions, gains by length in one, calibration, time.
    assert_eq!((count("<svg "), count("</svg>"), count("role=\"img\"")), (7, 7, 7));
    assert_eq!(count("font-family=\""), count("font-family=\"sans-serif\""));
    // The total is no bar beside its parts.
    let (_, time) = page.split_once("aria-label=\"Time of each stage\"").unwrap();
    assert!(time.contains("embed") && !time.contains("all questions"), "{time}");
    for title in ["Text to image: R@k", "gain of rerank@50 by text length", "promised against found", "Time of each"] {
        assert!(page.contains(title), "{title}");
    }
}

#[test]
fn nothing_is_too_odd_to_report() {
    let names: Vec<String> = (0..36).map(|at| format!("l{at}")).collect();
    let many: Vec<&str> = names.iter().map(String::as_str).collect();
    let whole = results(6, &[]);
    let with_methods = |n: usize| {
        let mut of = whole.clone();
        of.methods = (0..n).map(|at| format!("a method with a long name, number {at}")).collect();
        for question in &mut of.questions {
            (question.ranks, question.ndcg) = (vec![None; n], vec![0.0; n]);
        }
        of
    };
    let stage = |seconds, n| Stage { name: "s".repeat(99), seconds, n };
    let bin = |n, promised, found| Bin { n, promised, found };
    let odd_numbers = Results {
        stages: vec![stage(f64::NAN, 0), stage(f64::INFINITY, 1), stage(f64::MAX, 1), stage(-1e-300, usize::MAX)],
        calibration: vec![bin(usize::MAX, f64::NAN, 0.5), bin(usize::MAX, -1e300, f64::INFINITY), bin(0, 0.1, 0.1)],
        ..whole.clone()
    };
    let cases = [
        ("nothing", Results::default()),
        ("no question", Results { questions: Vec::new(), ..whole.clone() }),
        ("no method", with_methods(0)),
        ("one method", with_methods(1)),
        ("nine methods", with_methods(9)),
        ("many languages", results(72, &many)),
        ("many notes", Results { notes: vec!["n".repeat(9999); 999], ..whole.clone() }),
        ("depth 1", Results { depth: 1, ..whole.clone() }),
        ("depth 2", Results { depth: 2, ..whole.clone() }),
        ("odd numbers", odd_numbers),
        ("idle stages", Results { stages: vec![stage(0.0, 0)], ..whole.clone() }),
        ("an empty failure", Results { failures: vec![Failure::default()], ..whole.clone() }),
    ];
    for (name, case) in cases {
        let (_folder, text) = written(&case);
        let said = [report::table(&case), text("report.md"), text("report.html")].concat();
        assert!(!said.contains("NaN") && !said.contains(" inf"), "{name}: {said}");
    }
    let many = report::table(&Results { notes: vec!["n".repeat(9999); 52], ..whole.clone() });
    assert!(many.contains("nnn…\n") && many.contains("\n- and 2 more\n"), "{many}");
    assert!(report::table(&Results::default()).contains("No question was asked."));
}

#[test]
fn a_failed_write_leaves_no_part() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("report.md")).unwrap();
    let error = report::write(folder.path(), &results(2, &[])).unwrap_err().to_string();
    assert!(error.contains("report.md"), "{error}");
    assert!(!folder.path().join(".report.md.part").exists() && !folder.path().join("results.json").exists());
}

#[test]
fn runs_are_compared_in_words() {
    let one = results(12, &[]);
    fn run<'a>(name: &'a str, results: &'a Results, method: usize) -> Run<'a> {
        Run { name, results, method }
    }
    let said = report::compared([run("old", &one, 0), run("new", &one, 1)]).unwrap();
    let expected = "\
urban1k, protocol first-line
============================

   run               model     network  firn
-  ----------------  --------  -------  -----
A  exact of old      clip abc  net def  0.1.0
B  rerank@50 of new  clip abc  net def  0.1.0

               questions     R@1 of A     R@1 of B                  gain        p
-------------  ---------  -----------  -----------  --------------------  -------
Text to image         12  50.0 ± 15.1  100.0 ± 0.0  +50.0 [+25.0, +75.0]  < 0.001
Image to text         12  50.0 ± 15.1  100.0 ± 0.0  +50.0 [+25.0, +75.0]  < 0.001

R@1 in percent ± standard error; the gain is of B over A, with its 95 % interval; p is two-sided.
";
    assert_eq!(said, expected);
    let check = |two: Results, method: usize, expected: [&str; 2]| {
        let error = report::compared([run("old", &one, 0), run("new", &two, method)]).unwrap_err();
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    };
    check(Results { dataset: "dci".to_owned(), ..one.clone() }, 0, ["urban1k", "dci"]);
    check(Results { protocol: "goal".to_owned(), ..one.clone() }, 0, ["protocols", "first-line and goal"]);
    check(Results { n_documents: 9, ..one.clone() }, 0, ["12 documents", "9 documents"]);
    check(Results { questions: one.questions[1..].to_vec(), ..one.clone() }, 0, ["24", "23"]);
    check(one.clone(), 2, ["new", "2 methods"]);
    check(
        Results { data_hash: "456def".to_owned(), ..one.clone() },
        0,
        ["texts or judgements differ", "123abc and 456def"],
    );
    let of_before = Results { data_hash: String::new(), ..one.clone() };
    assert!(report::compared([run("old", &of_before, 0), run("new", &one, 1)]).is_ok());
}
