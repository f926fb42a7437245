//! Images of WebDataset tars: neighbouring members of one name are one sample. The tars are streamed, in an order and
//! through a shuffle buffer that follow from the seed and the epoch.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::{BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    arrays::bad,
    captions::{Belonging, Described, Groups},
};
use crate::{Error, Result, picture};

const PICTURES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
/// Largest text or JSON beside a picture.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// A picture, still encoded, and what stands beside it.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub key: String,
    pub picture: Vec<u8>,
    pub text: Option<String>,
    pub belonging: Belonging,
}

impl Sample {
    /// What may stand in a batch only once.
    pub(super) fn group(&self) -> &str {
        self.belonging.group.as_deref().unwrap_or(&self.key)
    }
}

/// Tars, and what captions say of the splits and groups of their samples.
#[derive(Clone, Default)]
pub(super) struct Shards {
    pub paths: Vec<PathBuf>,
    pub said: Arc<HashMap<String, Belonging>>,
}

impl Shards {
    pub(super) fn described(paths: Vec<PathBuf>, captions: &HashMap<String, Described>) -> Shards {
        let said = captions.iter().filter(|(_, described)| described.belonging != Belonging::default());
        let said = said.map(|(id, described)| (id.clone(), described.belonging.clone()));
        Shards { paths, said: Arc::new(said.collect()) }
    }
}

/// All samples of some tars, one tar after another. No key comes twice, and no group is parted.
pub(super) struct Samples {
    left: VecDeque<PathBuf>,
    said: Arc<HashMap<String, Belonging>>,
    keys: HashSet<String>,
    groups: Groups,
    /// The tar that is being read. A thread reads ahead.
    open: Option<(PathBuf, std::sync::mpsc::IntoIter<Result<Sample>>)>,
}

impl Samples {
    pub(super) fn new(shards: Shards) -> Samples {
        let (left, said) = (shards.paths.into(), shards.said);
        Samples { left, said, keys: HashSet::new(), groups: Groups::default(), open: None }
    }

    /// With all that is said of it.
    fn known(&mut self, mut sample: Sample, path: &Path) -> Result<Sample> {
        if !self.keys.insert(sample.key.clone()) {
            return Err(bad(path, format!("expected each key once, received {:?} twice", sample.key)));
        }
        let said = self.said.get(&sample.key).cloned().unwrap_or_default();
        let merged = sample.belonging.merge(said, "the tar").and_then(|()| self.groups.check(&sample.belonging));
        merged.map_err(|what| bad(path, format!("{}: {what}", sample.key)))?;
        Ok(sample)
    }
}

impl Iterator for Samples {
    type Item = Result<Sample>;

    fn next(&mut self) -> Option<Result<Sample>> {
        loop {
            if let Some((path, mut samples)) = self.open.take()
                && let Some(sample) = samples.next()
            {
                let known = sample.and_then(|sample| self.known(sample, &path));
                self.open = Some((path, samples));
                return Some(known);
            }
            let path = self.left.pop_front()?;
            let (sender, receiver) = std::sync::mpsc::sync_channel(64);
            let from = path.clone();
            std::thread::spawn(move || read_tar(&from, |sample| sender.send(sample).is_ok()));
            self.open = Some((path, receiver.into_iter()));
        }
    }
}

/// Hands over each sample, until nobody wants more.
fn read_tar(path: &Path, mut hand_over: impl FnMut(Result<Sample>) -> bool) {
    let mut read = || -> Result<()> {
        let broken = |fault: std::io::Error| bad(path, format!("not a tar that can be read: {fault}"));
        let mut archive = tar::Archive::new(BufReader::new(super::arrays::open(path)?));
        let mut sample = Sample::default();
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let Some((key, extension)) = split(&name) else { continue };
            if key != sample.key {
                if !hand_over_whole(&mut hand_over, std::mem::take(&mut sample)) {
                    return Ok(());
                }
                sample.key = key.to_owned();
            }
            let mut take = |limit: u64| -> Result<Vec<u8>> {
                let mut bytes = Vec::new();
                entry.by_ref().take(limit).read_to_end(&mut bytes).map_err(broken)?;
                Ok(bytes)
            };
            match extension.to_lowercase().as_str() {
                "txt" => sample.text = Some(String::from_utf8_lossy(&take(MAX_TEXT_BYTES)?).trim().to_owned()),
                "json" => {
                    let faulty = |e: serde_json::Error| bad(path, format!("{name}: {e}"));
                    sample.belonging = serde_json::from_slice(&take(MAX_TEXT_BYTES)?).map_err(faulty)?;
                }
                kind if PICTURES.contains(&kind) && !sample.picture.is_empty() => {
                    return Err(bad(path, format!("{key}: expected one picture, received {name} too")));
                }
                kind if PICTURES.contains(&kind) => sample.picture = take(picture::MAX_DECODE_BYTES)?,
                _ => {}
            }
        }
        hand_over_whole(&mut hand_over, sample);
        Ok(())
    };
    if let Err(error) = read() {
        hand_over(Err(error));
    }
}

/// A sample without a picture is none.
fn hand_over_whole(hand_over: &mut impl FnMut(Result<Sample>) -> bool, sample: Sample) -> bool {
    sample.picture.is_empty() || hand_over(Ok(sample))
}

/// Up to the first dot of the name's last part: by WebDataset's convention its folders belong to the key.
fn split(name: &str) -> Option<(&str, &str)> {
    let name = name.trim_start_matches("./");
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.').filter(|&dot| dot > 0)?;
    Some((&name[..dot], &name[dot + 1..]))
}

/// Samples in a random order: each is drawn from the next so many.
pub(super) struct Shuffled {
    samples: Samples,
    buffer: Vec<Sample>,
    size: usize,
    rng: ChaCha8Rng,
}

impl Shuffled {
    pub(super) fn new(shards: &Shards, size: usize, seed: u64, epoch: u64) -> Shuffled {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::MAX - epoch);
        let mut shards = shards.clone();
        shards.paths.shuffle(&mut rng);
        Shuffled { samples: Samples::new(shards), buffer: Vec::new(), size: size.max(1), rng }
    }

    /// The next of which `wanted` holds; `None` at the end of the epoch.
    pub(super) fn draw(&mut self, wanted: impl Fn(&Sample) -> bool) -> Result<Option<Sample>> {
        while self.buffer.len() < self.size {
            match self.samples.next() {
                Some(sample) => self.buffer.extend(Some(sample?).filter(&wanted)),
                None => break,
            }
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let at = self.rng.random_range(0..self.buffer.len());
        Ok(Some(self.buffer.swap_remove(at)))
    }
}

/// Files as they are, and the `.tar` files of folders, in the order of their names.
pub(super) fn tars(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            super::arrays::open(path)?;
            all.push(path.clone());
            continue;
        }
        let io = |error| Error::Io { path: path.clone(), error };
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(io)? {
            inside.push(entry.map_err(io)?.path());
        }
        inside.retain(|path| path.extension().is_some_and(|e| e == "tar"));
        inside.sort();
        all.extend(inside);
    }
    if all.is_empty() {
        let path = paths.first().cloned().unwrap_or_default();
        return Err(bad(&path, "expected .tar files, received none".to_owned()));
    }
    Ok(all)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A tar of these members.
    pub(in super::super) fn write_tar(path: &Path, members: &[(String, Vec<u8>)]) {
        let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        builder.finish().unwrap();
    }

    fn of(paths: Vec<PathBuf>) -> Shards {
        Shards { paths, ..Shards::default() }
    }

    fn draw_all(paths: &[PathBuf], size: usize, seed: u64, epoch: u64) -> Vec<String> {
        let mut shuffled = Shuffled::new(&of(paths.to_vec()), size, seed, epoch);
        std::iter::from_fn(|| shuffled.draw(|_| true).unwrap()).map(|sample| sample.key).collect()
    }

    #[test]
    fn samples_come_once_an_epoch_in_an_order_by_the_seed() {
        let folder = tempfile::tempdir().unwrap();
        for shard in 0..3 {
            let members: Vec<_> = (0..10)
                .flat_map(|i| {
                    [(format!("d/k{shard}-{i}.jpg"), vec![1]), (format!("d/k{shard}-{i}.txt"), b" x \n".to_vec())]
                })
                .collect();
            write_tar(&folder.path().join(format!("{shard}.tar")), &members);
        }
        let paths = tars(&[folder.path().to_owned()]).unwrap();
        let first = draw_all(&paths, 8, 1, 0);
        assert_eq!(first, draw_all(&paths, 8, 1, 0));
        assert_ne!(first, draw_all(&paths, 8, 2, 0));
        let second = draw_all(&paths, 8, 1, 1);
        assert_ne!(first, second);
        let sorted = |mut keys: Vec<String>| {
            keys.sort();
            keys
        };
        assert_eq!(first.len(), 30);
        assert_eq!(sorted(first), sorted(second));
        let sample = Samples::new(of(paths)).next().unwrap().unwrap();
        assert_eq!((sample.key.as_str(), sample.text.as_deref(), sample.group()), ("d/k0-0", Some("x"), "d/k0-0"));
    }

    #[test]
    fn what_captions_say_of_split_and_group_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        let json = br#"{"split": "train"}"#.to_vec();
        write_tar(&path, &[("a.jpg".into(), vec![1]), ("a.json".into(), json), ("b.jpg".into(), vec![1])]);
        let read = |rows: &[(&str, Option<&str>, &str)]| -> Result<Vec<Sample>> {
            let belonging = |split: Option<&str>, group: &str| Belonging {
                split: split.map(str::to_owned),
                group: Some(group.to_owned()),
            };
            let said = rows.iter().map(|&(key, split, group)| (key.to_owned(), belonging(split, group))).collect();
            Samples::new(Shards { paths: vec![path.clone()], said: Arc::new(said) }).collect()
        };
        let samples = read(&[("a", None, "g"), ("b", Some("val"), "h")]).unwrap();
        assert_eq!([samples[0].group(), samples[1].group()], ["g", "h"]);
        let held_out = |sample: &Sample| sample.belonging.is_held_out(&sample.key, 0.0);
        assert_eq!([held_out(&samples[0]), held_out(&samples[1])], [false, true]);
        let refused = |rows: &[(&str, Option<&str>, &str)], expected: &str| {
            let error = read(rows).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(&[("a", Some("val"), "g")], "x.tar: a: split: expected \"train\", as the tar says, received \"val\"");
        refused(
            &[("a", None, "g"), ("b", Some("val"), "g")],
            "x.tar: b: group \"g\": expected one split of all its items",
        );
    }

    #[test]
    fn a_key_has_its_folders_and_comes_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        let read = |names: &[&str]| -> Result<Vec<String>> {
            let members: Vec<_> = names.iter().map(|name| ((*name).to_owned(), vec![1])).collect();
            write_tar(&path, &members);
            Samples::new(of(vec![path.clone()])).map(|sample| Ok(sample?.key)).collect()
        };
        assert_eq!(read(&["a/1.jpg", "b/1.jpg", "c.d/2.seg.png", "c.d/2.jpg"]).unwrap(), ["a/1", "b/1", "c.d/2"]);
        let refused = |names: &[&str], expected: &str| {
            let error = read(names).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(&["1.jpg", "2.jpg", "1.jpg"], "x.tar: expected each key once, received \"1\" twice");
        refused(&["1.jpg", "1.png"], "x.tar: 1: expected one picture, received 1.png too");
    }

    #[test]
    fn what_is_no_tar_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        std::fs::write(&path, [7; 600]).unwrap();
        let error = Samples::new(of(vec![path])).next().unwrap().unwrap_err().to_string();
        assert!(error.contains("x.tar: not a tar that can be read"), "{error}");
        assert!(tars(&[folder.path().join("no.tar")]).is_err());
    }
}
