//! WebDataset tars.

use super::*;

#[test]
fn webdataset_and_its_traps() {
    let dir = tempfile::tempdir().unwrap();
    let vector = npy("(2,)", "<f4", &f32_bytes(&[1.0, 2.0]));
    let whole = tar(&[
        ("./a/one.jpg", b"123"),
        ("./a/one.txt", b"a text\n"),
        ("./a/one.cls", b"7"),
        ("./a/one.seg.png", b"mask"),
        ("./b/one.json", br#"{"id": "b1", "caption": "c", "lang": "fr", "n": 1}"#),
        ("./b/one.PNG", b"12"),
        ("../../etc/two.jpg", b"1"),
        ("three.jpg", b"1"),
        ("three.png", b"1"),
        ("four.json", b"{"),
        ("five.npy", &vector),
        ("five.txt", b"\xff"),
        ("six.npy", &vector),
        ("seven", b"no extension"),
        ("eight.jpg", b"the last one"),
    ]);
    let expected = [
        r#"a/one image=3 "a text" {"class":7,"path":"a/one.jpg"}"#,
        r#"b/one id="b1" image=2 "c"fr {"n":1,"path":"b/one.PNG"}"#,
        r#"../../etc/two image=1 {"path":"../../etc/two.jpg"}"#,
        "three !two_images",
        "four !invalid_json",
        "five !not_utf8",
        r#"six image=[1.0, 2.0] {"path":"six"}"#,
        r#"seven {"path":"seven"}"#,
        r#"eight image=12 {"path":"eight.jpg"}"#,
    ];
    write(
        dir.path(),
        &[("d.tar", &whole), ("d.tar.gz", &gzip(&whole)), ("cut.tar", &whole[..whole.len() - 1024 - 505])],
    );
    write(dir.path(), &[("half.tar", &whole[..whole.len() - 1024 - 700]), ("empty.tar", b"")]);
    check(&dir.path().join("d.tar"), &expected);
    check(&dir.path().join("d.tar.gz"), &expected);
    let cut = [&expected[..8], &["eight.jpg !truncated"]].concat();
    check(&dir.path().join("cut.tar"), &cut);
    let half = lines(&dir.path().join("half.tar"), &SourceOptions::default());
    assert_eq!(half[..8], expected[..8]);
    assert!(half[8].ends_with("!truncated"), "{half:?}");
    check(&dir.path().join("empty.tar"), &[]);
}

/// Frames of a video, numbered dates, masks: a number after the first dot is part of the name, a word is not.

#[test]
fn webdataset_names_with_dots() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.tar");
    let of = |members: &[(&str, &[u8])]| write(dir.path(), &[("d.tar", &tar(members))]);
    of(&[
        ("a/photo.0000.png", b"1"),
        ("a/photo.0000.seg.png", b"mask"),
        ("a/photo.0000.txt", b"one"),
        ("a/photo.0001.png", b"12"),
        ("2020.01.05-beach.jpg", b"123"),
        ("2020.01.05-beach.json", br#"{"n": 1}"#),
        ("b.7z", b"?"),
    ]);
    let expected = [
        r#"a/photo.0000 image=1 "one" {"path":"a/photo.0000.png"}"#,
        r#"a/photo.0001 image=2 {"path":"a/photo.0001.png"}"#,
        r#"2020.01.05-beach image=3 {"n":1,"path":"2020.01.05-beach.jpg"}"#,
        r#"b {"path":"b"}"#,
    ];
    check(&path, &expected);
    check(&path, &expected);

    of(&[("photo.left.png", b"1"), ("photo.right.png", b"2"), ("photo.notes", b"?"), ("x.jpg", b"1")]);
    check(&path, &["photo !dotted_names", r#"x image=1 {"path":"x.jpg"}"#]);
    let fault = Source::open(&path, &SourceOptions::default()).unwrap().items.next().unwrap().unwrap_err().to_string();
    assert!(
        fault.contains("the name has dots") && fault.contains("photo.left.png") && fault.contains("2 such"),
        "{fault}"
    );
}

/// A tar of members of one name that are as large as is read: more of them than memory should hold.

#[test]
fn webdataset_keeps_no_more_of_one_name_than_an_item_may_have() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.tar");
    let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
    for name in ["a.txt", "a.cls", "a.json", "b.txt"] {
        let size = if name == "b.txt" { 1 } else { MAX_FILE_BYTES };
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_cksum();
        builder.append_data(&mut header, name, std::io::Read::take(std::io::repeat(b'x'), size)).unwrap();
    }
    builder.finish().unwrap();
    check(&path, &["a !too_large", r#"b "x" {"path":"b"}"#]);
}

/// A long name or a pax record that announces more than a name can be is an error, not a reason to read all of it.

#[test]
fn headers_of_a_tar_are_bounded() {
    const BOMB: u64 = 8 << 20;
    let dir = tempfile::tempdir().unwrap();
    let with_header = |kind: tar::EntryType| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        builder.append_data(&mut header.clone(), "a.jpg", &b"1"[..]).unwrap();
        builder.append_data(&mut header.clone(), format!("{}.jpg", "long/".repeat(100)), &b"1"[..]).unwrap();
        header.set_size(BOMB);
        header.set_entry_type(kind);
        header.set_cksum();
        builder.append(&header, std::io::Read::take(std::io::repeat(b'x'), BOMB)).unwrap();
        header.set_size(1);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, "b.jpg", &b"1"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let options = SourceOptions { images: Some(dir.path().join("d.tar")), ..SourceOptions::default() };
    for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader] {
        let whole = with_header(kind);
        write(dir.path(), &[("d.tar", &whole), ("d.tar.gz", &gzip(&whole)), ("first.tar", &whole[3072..])]);
        write(dir.path(), &[("d.jsonl", br#"{"image": "a.jpg"}"#)]);
        for name in ["d.tar", "d.tar.gz"] {
            let found = lines(&dir.path().join(name), &SourceOptions::default());
            assert_eq!(found.len(), 3, "{found:?}");
            assert!(found[1].contains("long/long/") && found[2].ends_with("!unreadable"), "{found:?}");
        }
        let found = lines(&dir.path().join("d.jsonl"), &options);
        assert_eq!(found, ["--images !truncated", r#"line 1 image=1 {"path":"a.jpg"}"#]);
        check_refused(&dir.path().join("first.tar"), "headers take more than 1048576 bytes");
    }
}

#[test]
fn a_tar_that_is_cut_off_within_its_first_member_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let whole = tar(&[("a.jpg", &[7; 2000]), ("b.jpg", b"1")]);
    let check = |name: &str, bytes: &[u8], reason: &str, words: &str| {
        write(dir.path(), &[(name, bytes)]);
        check_refused(&dir.path().join(name), words);
        let error = Source::open(&dir.path().join(name), &SourceOptions::default()).err().unwrap();
        assert_eq!(error.reason(), reason, "{name}");
    };
    check("header.tar", &whole[..300], "truncated", "ends within its first member");
    check("data.tar", &whole[..900], "truncated", "expected 2000 bytes, received 388; nothing of it was kept");
    check("data.tar.gz", &gzip(&whole)[..40], "truncated", "ends within its first member");
    check("letter.tar", &[b'x'; 2000], "unreadable_source", "not a tar");

    let mut odd = tar(&[("?.jpg", b"1"), ("b.jpg", b"12")]);
    odd[0] = 0xff;
    let sum: u32 =
        odd[..512].iter().enumerate().map(|(at, &b)| if (148..156).contains(&at) { 32 } else { b.into() }).sum();
    odd[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    write(dir.path(), &[("odd.tar", &odd)]);
    let found = lines(&dir.path().join("odd.tar"), &SourceOptions::default());
    assert_eq!(
        found,
        ["\u{fffd}.jpg !not_utf8", r#"b image=2 {"path":"b.jpg"}"#],
        "a name that is not UTF-8 is no end"
    );
}

#[test]
fn webdataset_names_a_member_that_is_too_large_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.tar");
    let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
    let mut append = |name: &str, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_cksum();
        builder.append_data(&mut header, name, std::io::Read::take(std::io::repeat(7), size)).unwrap();
    };
    append("a.jpg", MAX_FILE_BYTES + 1);
    append("b.jpg", 5);
    builder.finish().unwrap();
    check(&path, &["a !too_large", r#"b image=5 {"path":"b.jpg"}"#]);
}
