//! Each kind of source with its traps, as tables: what is read, and what is named as a fault.

mod tars;

use std::{fs, path::Path};

use firn_index::{PointId, Text, TokenConfig};
use firn_ingest::source::{Item, Kind, MAX_FILE_BYTES, Skipped, Source, SourceOptions, join::Captions};
use serde_json::{Value, json};

use crate::support::{f32_bytes, gzip, npy, png, tar, write};

/// What a source gives, as lines: `NAME id=.. image=BYTES texts=.. payload=..`, or `NAME !reason`.
fn lines(path: &Path, options: &SourceOptions) -> Vec<String> {
    let source = Source::open(path, options).unwrap();
    source.items.map(|next| next.map_or_else(|skipped| fault_line(&skipped), |item| item_line(&item))).collect()
}

fn fault_line(skipped: &Skipped) -> String {
    format!("{} !{}", skipped.name, skipped.fault.reason())
}

fn item_line(item: &Item) -> String {
    let mut line = item.name.clone();
    match &item.id {
        Some(PointId::Num(number)) => line += &format!(" id={number}"),
        Some(PointId::Text(text)) => line += &format!(" id={text:?}"),
        None => {}
    }
    if let Some(image) = &item.image {
        line += &format!(" image={}", image.len());
    }
    for Text { text, language } in &item.texts {
        line += &format!(" {text:?}");
        line += language;
    }
    for (name, vector) in &item.vectors {
        line += &format!(" {name}={vector:?}");
    }
    for (of, tokens) in &item.tokens {
        let values: Vec<f32> = tokens.values.iter().map(|x| x.to_f32()).collect();
        line += &format!(" {of}:{}x{}={values:?}", tokens.n, tokens.dim);
    }
    if !item.payload.is_empty() {
        line += &format!(" {}", Value::Object(item.payload.clone()));
    }
    line
}

fn check(path: &Path, expected: &[&str]) {
    assert_eq!(lines(path, &SourceOptions::default()), expected, "{}", path.display());
}

/// The error of opening, which must hold these words.
fn check_refused(path: &Path, words: &str) {
    let error = Source::open(path, &SourceOptions::default()).err().expect(words).to_string();
    assert!(error.contains(words) && error.contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn folder_with_sidecars_in_the_order_of_names() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[
        ("b.jpg", b"12345"),
        ("a/z.PNG", b"123"),
        ("a/z.txt", "\u{feff}ein Text\nmit zwei Zeilen\n".as_bytes()),
        ("c.webp", b"1"),
        ("c.json", br#"{"id": 7, "text": "t", "texts": [{"text": "u", "language": "fr"}], "language": "en", "year": 2020, "image": "x"}"#),
        ("c.txt", b"first"),
        ("README", b"?"),
        ("notes.txt", b"?"),
        ("data.json", b"{}"),
    ]);
    let source = Source::open(dir.path(), &SourceOptions::default()).unwrap();
    assert_eq!(source.kind, Kind::Folder);
    let progress = source.progress.clone();
    let items: Vec<String> = source.items.map(|next| item_line(&next.unwrap())).collect();
    assert_eq!(
        items,
        [
            r#"a/z.PNG image=3 "ein Text\nmit zwei Zeilen" {"path":"a/z.PNG"}"#,
            r#"b.jpg image=5 {"path":"b.jpg"}"#,
            r#"c.webp id=7 image=1 "first" "t"en "u"fr {"image":"x","path":"c.webp","year":2020}"#,
        ]
    );
    assert_eq!(progress.ignored(), 3);
    assert_eq!(progress.fraction(), 1.0);
    check(&dir.path().join("a/z.PNG"), &[r#"z.PNG image=3 "ein Text\nmit zwei Zeilen" {"path":"z.PNG"}"#]);
}

#[test]
fn sidecars_are_known_however_their_extension_is_written() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            ("UPPER.JPG", b"1"),
            ("UPPER.TXT", b"text"),
            ("UPPER.Json", br#"{"n": 1}"#),
            ("both.jpg", b"1"),
            ("both.TXT", b"no"),
            ("both.txt", b"yes"),
            ("OTHER.TXT", b"?"),
        ],
    );
    let source = Source::open(dir.path(), &SourceOptions::default()).unwrap();
    let progress = source.progress.clone();
    let items: Vec<String> = source.items.map(|next| item_line(&next.unwrap())).collect();
    let upper = r#"UPPER.JPG image=1 "text" {"n":1,"path":"UPPER.JPG"}"#;
    assert_eq!(items, [upper, r#"both.jpg image=1 "yes" {"path":"both.jpg"}"#]);
    assert_eq!(progress.ignored(), 2, "both.TXT and OTHER.TXT");
    check(&dir.path().join("UPPER.JPG"), &[upper]);
}

#[cfg(unix)]
#[test]
fn folder_zoo_of_bad_files() {
    use std::{
        ffi::OsStr,
        os::unix::{ffi::OsStrExt as _, fs::symlink},
    };
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            ("dir.jpg/inside.png", b"1"),
            ("bad-sidecar.jpg", b"1"),
            ("bad-sidecar.json", b"{"),
            ("latin1.jpg", b"1"),
            ("latin1.txt", b"caf\xe9"),
            ("old.TIFF", b"1"),
            ("real/x.jpg", b"1"),
            ("zz.jpg", b"1"),
        ],
    );
    fs::File::create(dir.path().join("huge.jpg")).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
    fs::write(dir.path().join(OsStr::from_bytes(b"n\xe9.jpg")), b"1").unwrap();
    symlink("nowhere", dir.path().join("gone.jpg")).unwrap();
    symlink("round.jpg", dir.path().join("round.jpg")).unwrap();
    symlink(dir.path(), dir.path().join("real/up")).unwrap();
    symlink("real", dir.path().join("linked")).unwrap();
    symlink("nowhere", dir.path().join("zz.txt")).unwrap();
    check(
        dir.path(),
        &[
            "bad-sidecar.jpg !invalid_json",
            "dir.jpg !not_a_file",
            r#"dir.jpg/inside.png image=1 {"path":"dir.jpg/inside.png"}"#,
            "gone.jpg !unreadable",
            "huge.jpg !too_large",
            "latin1.jpg !not_utf8",
            "linked/up !symlink_loop",
            r#"linked/x.jpg image=1 {"path":"linked/x.jpg"}"#,
            "n\u{fffd}.jpg !not_utf8",
            "old.TIFF !unsupported_image",
            "real/up !symlink_loop",
            r#"real/x.jpg image=1 {"path":"real/x.jpg"}"#,
            "round.jpg !unreadable",
            "zz.jpg !unreadable",
        ],
    );
}

#[test]
fn json_lines_and_their_faults() {
    let dir = tempfile::tempdir().unwrap();
    let text = [
        "\u{feff}{\"image\": \"pics/a.jpg\", \"text\": \"x\", \"lang\": \"de\", \"id\": \"one\", \"n\": 1}\r",
        "",
        r#"{"id": 2, "captions": [{"lang": "en", "source": "s", "text": "c"}, "d"]}"#,
        "{broken",
        r#"{"image": "pics/none.jpg"}"#,
        r#"{"image": "../outside.jpg"}"#,
        r#"{"image": "/etc/hostname"}"#,
        r#"{"vectors": {"image": [1, 0.5]}, "path": "own"}"#,
        r#"{"text": ["#,
        r#"{"image": "pics"}"#,
        r#"{"text": "no newline at the end"}"#,
    ]
    .join("\n");
    write(dir.path(), &[("in/data.jsonl", text.as_bytes()), ("in/pics/a.jpg", b"1234"), ("outside.jpg", b"1")]);
    let expected = [
        r#"line 1 id="one" image=4 "x"de {"n":1,"path":"pics/a.jpg"}"#,
        r#"line 3 id=2 "c"en "d""#,
        "line 4 !invalid_json",
        "line 5 !missing_image",
        "line 6 !outside_folder",
        "line 7 !outside_folder",
        r#"line 8 image=[1.0, 0.5] {"path":"own"}"#,
        "line 9 !invalid_json",
        "line 10 !not_a_file",
        r#"line 11 "no newline at the end""#,
    ];
    check(&dir.path().join("in/data.jsonl"), &expected);
    write(dir.path(), &[("in/data.jsonl.gz", &gzip(text.as_bytes())), ("in/data", text.as_bytes())]);
    check(&dir.path().join("in/data.jsonl.gz"), &expected);
    check(&dir.path().join("in/data"), &expected);
}

#[test]
fn json_lines_that_are_not_text_too_long_or_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{{\"text\": \"{}\"}}", "x".repeat(17 << 20));
    let bytes = [b"{\"text\": \"a\xff\"}\n".as_slice(), long.as_bytes(), b"\n{\"text\": \"b\"}\n"].concat();
    write(dir.path(), &[("a.jsonl", &bytes)]);
    check(&dir.path().join("a.jsonl"), &["line 1 !not_utf8", "line 2 !too_large", r#"line 3 "b""#]);

    let rows: String = (0..2000).map(|n| json!({"id": n, "text": format!("{n:x}")}).to_string() + "\n").collect();
    let whole = gzip(rows.as_bytes());
    write(dir.path(), &[("cut.jsonl.gz", &whole[..whole.len() / 2])]);
    let read = lines(&dir.path().join("cut.jsonl.gz"), &SourceOptions::default());
    assert!(read.len() > 2 && read.last().unwrap().ends_with("!truncated"), "{:?}", read.last());
    assert_eq!(read[0], r#"line 1 id=0 "0""#);
}

#[test]
fn pictures_from_a_tar_by_name_and_by_id() {
    let dir = tempfile::tempdir().unwrap();
    let rows = [
        r#"{"id": "one", "text": "a"}"#,
        r#"{"id": 2, "text": "b"}"#,
        r#"{"id": "three"}"#,
        r#"{"image": "deep/x.jpg"}"#,
        r#"{"image": "x.jpg"}"#,
        r#"{"image": "../up.jpg"}"#,
        r#"{"text": "no id and no name"}"#,
        r#"{"id": "eight", "text": "no picture"}"#,
        r#"{"id": "nine", "vectors": {"image": [1]}}"#,
        r#"{"id": "ten", "text": "a picture that is not there", "image": "ten.jpg"}"#,
    ];
    let members: [(&str, &[u8]); 4] =
        [("./one.webp", b"1"), ("2.png", b"12"), ("deep/x.jpg", b"123"), ("../up.jpg", b"1234")];
    let whole = tar(&members);
    write(
        dir.path(),
        &[("d.jsonl", rows.join("\n").as_bytes()), ("i.tar", &whole), ("cut.tar", &whole[..whole.len() - 1024 - 510])],
    );
    write(dir.path(), &[("folder/one.webp", b"12345")]);
    let with = |images: &str| {
        let options = SourceOptions { images: Some(dir.path().join(images)), ..SourceOptions::default() };
        lines(&dir.path().join("d.jsonl"), &options)
    };
    assert_eq!(
        with("i.tar"),
        [
            r#"line 1 id="one" image=1 "a" {"path":"one.webp"}"#,
            r#"line 2 id=2 image=2 "b" {"path":"2.png"}"#,
            "line 3 !missing_image",
            r#"line 4 image=3 {"path":"deep/x.jpg"}"#,
            r#"line 5 image=3 {"path":"x.jpg"}"#,
            r#"line 6 image=4 {"path":"../up.jpg"}"#,
            r#"line 7 "no id and no name""#,
            r#"line 8 id="eight" "no picture""#,
            r#"line 9 id="nine" image=[1.0]"#,
            "line 10 !missing_image",
        ]
    );
    let cut = with("cut.tar");
    assert_eq!(cut[0], "--images !truncated");
    assert!(cut[1].starts_with("line 1 id=\"one\" image=1") && cut[6] == "line 6 !missing_image", "{cut:?}");
    assert_eq!(with("folder")[..2], [r#"line 1 id="one" image=5 "a" {"path":"one.webp"}"#, r#"line 2 id=2 "b""#]);
    assert_eq!(with("folder")[2], "line 3 !missing_image");

    write(dir.path(), &[("i.tar.gz", &gzip(&whole))]);
    let options = SourceOptions { images: Some(dir.path().join("i.tar.gz")), ..SourceOptions::default() };
    let error = Source::open(&dir.path().join("d.jsonl"), &options).err().unwrap().to_string();
    assert!(error.contains("not a plain tar"), "{error}");
}

#[test]
fn csv_and_its_traps() {
    let dir = tempfile::tempdir().unwrap();
    let text = "\u{feff}id,image,text,lang,texts,vectors,year\r\n\
        7,a.jpg,\"two\nlines, and a \"\"quote\"\"\",de,,,2020\r\n\
        007,,plain,,\"[\"\"u\"\", {\"\"text\"\": \"\"v\"\", \"\"lang\"\": \"\"fr\"\"}]\",,\r\n\
        8,too,short\r\n\
        9,,x,,,,2020,too long\r\n\
        10,,,,,\"{\"\"image\"\": [1, 2]}\",\r\n\
        11,,,,,[1],\r\n\
        12,,,,one text,,\r\n";
    let mut bytes = text.as_bytes().to_vec();
    bytes.extend(b"13,,caf\xe9,,,,\n");
    bytes.extend(b"14,,last,,,,\n");
    write(dir.path(), &[("d.csv", &bytes), ("d.csv.gz", &gzip(&bytes)), ("a.jpg", b"123")]);
    let expected = [
        r#"row 2 id=7 image=3 "two\nlines, and a \"quote\""de {"path":"a.jpg","year":"2020"}"#,
        r#"row 3 id="007" "plain" "u" "v"fr"#,
        "row 4 !wrong_field_count",
        "row 5 !wrong_field_count",
        r#"row 6 id=10 image=[1.0, 2.0]"#,
        "row 7 !invalid_field",
        r#"row 8 id=12 "one text""#,
        "row 9 !not_utf8",
        r#"row 10 id=14 "last""#,
    ];
    check(&dir.path().join("d.csv"), &expected);
    check(&dir.path().join("d.csv.gz"), &expected);
    write(
        dir.path(),
        &[("d.tsv", b"text\tlang\na, b\ten\n"), ("x.csv", b"a,b\n1,2\n"), ("twice.csv", b"text,text\n1,2\n")],
    );
    check(&dir.path().join("d.tsv"), &[r#"row 2 "a, b"en"#]);
    check_refused(&dir.path().join("x.csv"), "expected a header line with one of the columns image, text");
    check_refused(&dir.path().join("twice.csv"), "stands twice");
}

#[test]
fn csv_with_a_quote_that_is_not_closed_ends_with_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = format!("text\na\n\"open\n{}", "line\n".repeat(5 << 20));
    write(dir.path(), &[("d.csv", bytes.as_bytes())]);
    check(&dir.path().join("d.csv"), &[r#"row 2 "a""#, "row 3 !truncated"]);
}

#[test]
fn looking_for_items_takes_none_away() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[("a.jsonl", b"{\n{\"id\": 1, \"text\": \"x\"}\n{\n"), ("b.jsonl", b"{\n{\n"), ("c.jsonl", b"\n")],
    );
    let check = |name: &str, has_items: bool, expected: &[&str]| {
        let mut source = Source::open(&dir.path().join(name), &SourceOptions::default()).unwrap();
        assert_eq!((source.has_items(), source.has_items()), (has_items, has_items), "{name}");
        let found: Vec<String> =
            source.items.map(|next| next.map_or_else(|s| fault_line(&s), |i| item_line(&i))).collect();
        assert_eq!(found, expected, "{name}");
    };
    check("a.jsonl", true, &["line 1 !invalid_json", r#"line 2 id=1 "x""#, "line 3 !invalid_json"]);
    check("b.jsonl", false, &["line 1 !invalid_json", "line 2 !invalid_json"]);
    check("c.jsonl", false, &[]);
}

#[test]
fn npy_rows_and_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let rows = npy("(3, 2)", "<f4", &f32_bytes(&[1.0, 2.0, f32::NAN, 4.0, 5.0, 6.0]));
    write(dir.path(), &[("v.npy", &rows), ("t.npy", &rows), ("t.ids.txt", b"a\nb\r\n7\n"), ("j.npy", &rows)]);
    write(dir.path(), &[("j.ids.json", br#"[1, "b", 3]"#), ("cut.npy", &rows[..rows.len() - 5]), ("few.npy", &rows)]);
    write(dir.path(), &[("few.ids.txt", b"a\n"), ("flat.npy", &npy("(6,)", "<f4", &[0; 24]))]);
    write(dir.path(), &[("u8.npy", &npy("(3, 2)", "|u1", &[0; 6])), ("wide.npy", &npy("(1, 99999)", "<f4", &[]))]);
    check(
        &dir.path().join("v.npy"),
        &[
            r#"row 0 id="v:0" image=[1.0, 2.0]"#,
            r#"row 1 id="v:1" image=[NaN, 4.0]"#,
            r#"row 2 id="v:2" image=[5.0, 6.0]"#,
        ],
    );
    write(dir.path(), &[("i8.npy", &npy("(2, 2)", "|i1", &[3, 0x80, 0xff, 0]))]);
    check(
        &dir.path().join("i8.npy"),
        &[r#"row 0 id="i8:0" image=[3.0, -128.0]"#, r#"row 1 id="i8:1" image=[-1.0, 0.0]"#],
    );
    let options = SourceOptions { vector_name: "text".to_owned(), ..SourceOptions::default() };
    let source = Source::open(&dir.path().join("t.npy"), &options).unwrap();
    assert_eq!(source.dims["text"], 2);
    let ids = |name: &str| {
        lines(&dir.path().join(name), &options).iter().map(|line| line[6..14].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("t.npy"), ["id=\"a\" t", "id=\"b\" t", "id=\"7\" t"].map(|id| format!(" {id}")[1..].to_owned()));
    assert!(lines(&dir.path().join("j.npy"), &options)[1].starts_with("row 1 id=\"b\" text="));
    check(
        &dir.path().join("cut.npy"),
        &[r#"row 0 id="cut:0" image=[1.0, 2.0]"#, r#"row 1 id="cut:1" image=[NaN, 4.0]"#, "row 2 !truncated"],
    );
    check_refused(&dir.path().join("few.npy"), "3 rows, but 1 ids");
    check_refused(&dir.path().join("flat.npy"), "expected shape (n, dim)");
    check_refused(&dir.path().join("u8.npy"), "received |u1");
    check_refused(&dir.path().join("wide.npy"), "at most 16384");
}

#[test]
fn tokens_beside_npy_rows() {
    let dir = tempfile::tempdir().unwrap();
    let rows = npy("(2, 2)", "<f4", &f32_bytes(&[1.0, 2.0, 3.0, 4.0]));
    let tokens = npy("(2, 1, 3)", "<f4", &f32_bytes(&[0.5, 1.0, 1.5, 2.0, 2.5, 3.0]));
    write(dir.path(), &[("a.npy", &rows), ("a.tokens.npy", &tokens), ("b.npy", &rows)]);
    write(dir.path(), &[("b.tokens.npy", &npy("(3, 1, 3)", "<f4", &[0; 36])), ("c.npy", &tokens)]);
    let expected = ["row 0 id=\"a:0\" image=[1.0, 2.0] image:1x3=[0.5, 1.0, 1.5]"];
    assert_eq!(lines(&dir.path().join("a.npy"), &SourceOptions::default())[..1], expected);
    let source = Source::open(&dir.path().join("a.npy"), &SourceOptions::default()).unwrap();
    assert_eq!(source.tokens["image"], TokenConfig { n: 1, dim: 3 });
    let error = Source::open(&dir.path().join("b.npy"), &SourceOptions::default()).err().unwrap().to_string();
    assert!(error.contains("b.tokens.npy: expected shape (2, 1 to 256, dim)"), "{error}");
    check_refused(&dir.path().join("c.npy"), "go into x.tokens.npy beside x.npy");
}

#[test]
fn facets_as_flame_publishes_them() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/fixtures/pickle");
    let facets = fs::read(fixtures.join("facets.pth")).unwrap();
    let rows: Vec<f32> = (0..22).map(|i| i as f32 / 8.0).collect();
    write(dir.path(), &[("00000/000001.pth", &facets), ("00001/x.npy", &npy("(11, 2)", "<f4", &f32_bytes(&rows)))]);
    write(dir.path(), &[("00001/y.npy", &npy("(10, 2)", "<f4", &f32_bytes(&rows[..20]))), ("notes.txt", b"")]);
    write(dir.path(), &[("00002/cut.pth", &facets[..facets.len() / 2])]);
    let source = Source::open(dir.path(), &SourceOptions::default()).unwrap();
    assert_eq!((source.kind, source.dims["text"]), (Kind::Facets, 2));
    assert_eq!(source.tokens["text"], TokenConfig { n: 7, dim: 2 });
    let found: Vec<_> = source.items.collect();
    let first = found[0].as_ref().unwrap();
    assert_eq!((&first.name, &first.id), (&"00000/000001.pth".to_owned(), &Some("000001".into())));
    let kept: Vec<f32> = first.tokens["text"].values.iter().map(|x| x.to_f32()).collect();
    assert_eq!(kept, rows[8..]);
    let mean = [rows[8..].iter().step_by(2).sum::<f32>(), rows[9..].iter().step_by(2).sum::<f32>()];
    let length = (mean[0] * mean[0] + mean[1] * mean[1]).sqrt();
    assert!(first.vectors["text"].iter().zip(mean).all(|(x, sum)| (x - sum / length).abs() < 1e-6));
    let second = found[1].as_ref().unwrap();
    assert_eq!((&second.id, &second.tokens), (&Some("x".into()), &first.tokens));
    let fault = |at: usize| found[at].as_ref().unwrap_err().to_string();
    assert_eq!(fault(2), "00001/y.npy: the array cannot be read: expected shape (11, dim), received [10, 2]");
    assert!(fault(3).starts_with("00002/cut.pth: the array cannot be read: "), "{}", fault(3));
    assert_eq!(found.len(), 4);
    let other = tempfile::tempdir().unwrap();
    write(other.path(), &[("a.npy", &npy("(3, 2)", "<f4", &[0; 24]))]);
    check_refused(other.path(), "no file that holds facets");
    write(other.path(), &[("deep/a.jpg", b"12345")]);
    assert_eq!(Source::open(other.path(), &SourceOptions::default()).unwrap().kind, Kind::Folder);
}

#[test]
fn safetensors_as_the_format_s_own_crate_writes_them() {
    use safetensors::{Dtype, tensor::TensorView};
    let dir = tempfile::tempdir().unwrap();
    let image = f32_bytes(&[1.0, 2.0, 3.0, 4.0]);
    let text: Vec<u8> = [0.5f32, 1.5].iter().flat_map(|&n| half::f16::from_f32(n).to_le_bytes()).collect();
    let save = |name: &str, tensors: Vec<(&str, Dtype, Vec<usize>, &[u8])>, ids: Option<&str>| {
        let views: Vec<_> = tensors
            .into_iter()
            .map(|(name, dtype, shape, data)| (name, TensorView::new(dtype, shape, data).unwrap()))
            .collect();
        let metadata = ids.map(|ids| [("ids".to_owned(), ids.to_owned())].into());
        let bytes = safetensors::serialize(views, metadata).unwrap();
        write(dir.path(), &[(name, &bytes)]);
        dir.path().join(name)
    };
    let both = || vec![("image", Dtype::F32, vec![2, 2], &image[..]), ("text", Dtype::F16, vec![2, 1], &text[..])];
    let path = save("a.safetensors", both(), Some(r#"["x", 9]"#));
    check(&path, &[r#"row 0 id="x" image=[1.0, 2.0] text=[0.5]"#, "row 1 id=9 image=[3.0, 4.0] text=[1.5]"]);
    assert_eq!(
        Source::open(&path, &SourceOptions::default()).unwrap().dims,
        [("image".to_owned(), 2), ("text".to_owned(), 1)].into()
    );
    check(
        &save("b.safetensors", both(), None),
        &[r#"row 0 id="b:0" image=[1.0, 2.0] text=[0.5]"#, r#"row 1 id="b:1" image=[3.0, 4.0] text=[1.5]"#],
    );
    check_refused(&save("c.safetensors", both(), Some("[1]")), "2 rows, but 1 ids");
    let uneven = vec![("image", Dtype::F32, vec![1, 4], &image[..]), ("text", Dtype::F16, vec![2, 1], &text[..])];
    check_refused(&save("d.safetensors", uneven, None), "as many rows");
    check_refused(&save("e.safetensors", vec![("image", Dtype::F32, vec![4], &image[..])], None), "shape (n, dim)");
    let tokens =
        |name, shape| vec![("image", Dtype::F32, vec![2, 2], &image[..]), (name, Dtype::F16, shape, &image[..])];
    let path = save("t.safetensors", tokens("image.tokens", vec![2, 2, 2]), None);
    let source = Source::open(&path, &SourceOptions::default()).unwrap();
    assert_eq!((source.dims.len(), source.tokens["image"]), (1, TokenConfig { n: 2, dim: 2 }));
    let first = source.items.map(Result::unwrap).next().unwrap();
    assert_eq!((first.tokens["image"].values.len(), first.vectors.len()), (4, 1));
    check_refused(
        &save("g.safetensors", tokens("text.tokens", vec![2, 2, 2]), None),
        "no vector: expected a tensor \"text\" too",
    );
    check_refused(&save("h.safetensors", tokens("image.tokens", vec![4, 2]), None), "of shape (rows, n, dim)");
    let whole = vec![("image", Dtype::I8, vec![2, 8], &image[..])];
    check_refused(&save("i.safetensors", whole, None), "hint: scale * (x - zero_point)");
    check_refused(&save("f.safetensors", vec![("image", Dtype::I32, vec![2, 2], &image[..])], None), "received I32");
    let whole = fs::read(dir.path().join("b.safetensors")).unwrap();
    write(
        dir.path(),
        &[("cut.safetensors", &whole[..whole.len() - 2]), ("no.safetensors", b"12345678{}"), ("x.safetensors", b"1")],
    );
    check(
        &dir.path().join("cut.safetensors"),
        &[r#"row 0 id="cut:0" image=[1.0, 2.0] text=[0.5]"#, "row 1 !truncated"],
    );
    check_refused(&dir.path().join("no.safetensors"), "not safetensors");
    check_refused(&dir.path().join("x.safetensors"), "not safetensors");
}

#[test]
fn what_is_no_source_is_refused_with_what_is() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("letter.txt", b"dear"), ("photo", &png(1))]);
    check_refused(&dir.path().join("letter.txt"), "expected a folder of pictures or embeddings, .jsonl");
    check_refused(&dir.path().join("nothing"), "No such file");
    let found = lines(&dir.path().join("photo"), &SourceOptions::default());
    assert_eq!(found.len(), 1);
}

#[test]
fn arrays_are_joined_row_by_row() {
    let dir = tempfile::tempdir().unwrap();
    let rows = npy("(2, 2)", "<f4", &f32_bytes(&[1.0, 2.0, 3.0, 4.0]));
    let others = npy("(2, 1)", "<f4", &f32_bytes(&[5.0, 6.0]));
    write(dir.path(), &[("a.npy", &rows), ("a.ids.txt", b"x\ny\n"), ("b.npy", &others), ("same.npy", &others)]);
    write(dir.path(), &[("same.ids.txt", b"x\ny\n"), ("turned.npy", &others), ("turned.ids.txt", b"y\nx\n")]);
    write(dir.path(), &[("long.npy", &npy("(3, 1)", "<f4", &[0; 12])), ("r.jsonl", b"{\"id\": 1}")]);
    let options = |also: &[&str]| {
        let also = also.iter().enumerate().map(|(at, name)| (format!("v{at}"), dir.path().join(name)));
        SourceOptions { also: also.collect(), ..SourceOptions::default() }
    };
    let path = dir.path().join("a.npy");
    let joined = options(&["b.npy", "same.npy"]);
    assert_eq!(
        Source::open(&path, &joined).unwrap().dims,
        [("image", 2), ("v0", 1), ("v1", 1)].map(|(n, d)| (n.to_owned(), d)).into()
    );
    let expected =
        [r#"row 0 id="x" image=[1.0, 2.0] v0=[5.0] v1=[5.0]"#, r#"row 1 id="y" image=[3.0, 4.0] v0=[6.0] v1=[6.0]"#];
    assert_eq!(lines(&path, &joined), expected);
    let refused = |path: &Path, also: &str, words: &str| {
        let error = Source::open(path, &options(&[also])).err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&path, "turned.npy", "turned.npy: expected in row 0 the id x, as in");
    refused(&path, "long.npy", "long.npy: expected 2 rows, as in");
    refused(&path, "nowhere.npy", "nowhere.npy");
    refused(&dir.path().join("r.jsonl"), "b.npy", "expected .npy");
}

#[test]
fn captions_go_to_the_items_of_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let captions = r#"{"id": "x", "split": "val", "captions": [{"lang": "en", "text": "one"}, {"text": "eins", "lang": "de"}]}
{"id": "7", "text": "seven", "language": "en"}
{"id": "nobody", "text": "lost"}"#;
    let rows = npy("(3, 1)", "<f4", &f32_bytes(&[1.0, 2.0, 3.0]));
    write(dir.path(), &[("a.npy", &rows), ("a.ids.json", br#"["x", 7, "z"]"#), ("c.jsonl", captions.as_bytes())]);
    let captions = Captions::read(&dir.path().join("c.jsonl")).unwrap();
    assert_eq!(captions.n_unmet(), 3);
    let options = SourceOptions { captions: Some(captions.clone()), ..SourceOptions::default() };
    let source = Source::open(&dir.path().join("a.npy"), &options).unwrap();
    assert!(source.has_texts);
    let items: Vec<_> = source.items.map(Result::unwrap).collect();
    let texts = |at: usize| items[at].texts.iter().map(|t| format!("{} {}", t.language, t.text)).collect::<Vec<_>>();
    assert_eq!((texts(0), texts(1)), (vec!["en one".to_owned(), "de eins".to_owned()], vec!["en seven".to_owned()]));
    assert!(items[2].texts.is_empty() && items[2].vectors.contains_key("image"), "an item without captions has none");
    assert_eq!(items[0].payload["split"], "val");
    assert!(items[1].payload.is_empty());
    assert_eq!(captions.n_unmet(), 1);
}
