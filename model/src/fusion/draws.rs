//! What a step learns from: lists, each alone or in blocks of images that lie near each other.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};
use rand::{
    Rng, SeedableRng,
    seq::{IndexedRandom, SliceRandom},
};
use rand_chacha::ChaCha8Rng;

use super::{
    Items, Mining, Options, Pairs, Plan,
    lists::Nearest,
    trainer::{MIN_PAIRS, marked},
};
use crate::Error;

/// Draws of an image that belongs to none of some texts, before one that does is taken.
const MAX_TRIES: usize = 64;

/// Most texts that are joined anew.
const MAX_PARTS: usize = 6;

/// What lists are drawn from.
pub(super) struct Draws<'a> {
    pub pairs: &'a Pairs,
    /// Images to learn from, by fold.
    train: BTreeMap<usize, Vec<usize>>,
    images_of: Nearest,
    /// Of those that are asked: texts as they are, and all of an image's in one.
    single: Vec<usize>,
    joined: Vec<usize>,
    texts_of: Option<Nearest>,
    /// The texts of each image: as they are, and those that join others.
    own: Vec<[Vec<usize>; 2]>,
    /// The images to learn from of each group, if groups are known.
    groups: BTreeMap<usize, Vec<usize>>,
}

impl<'a> Draws<'a> {
    pub fn new(options: &Options<'a>, period: u64) -> crate::Result<Draws<'a>> {
        let Options { plan, pairs, train, mining, .. } = *options;
        let is_train = marked(train, pairs.images.n());
        let mut texts: Vec<usize> = (0..pairs.owner_of.len()).filter(|&text| is_train[pairs.owner_of[text]]).collect();
        let mut own = vec![[Vec::new(), Vec::new()]; pairs.images.n()];
        texts.iter().for_each(|&text| own[pairs.owner_of[text]][usize::from(pairs.is_joined(text))].push(text));
        let images_of = match mining {
            Mining::Exact => Nearest::images_of(pairs, &texts, train, plan.n_nearest, plan.within),
            Mining::Search { search, every } => {
                let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
                rng.set_stream(u64::MAX - period);
                texts.shuffle(&mut rng);
                texts.truncate(plan.n_lists.saturating_mul(every as usize).max(MIN_PAIRS));
                Nearest::found(pairs, &texts, &is_train, search, [plan.n_nearest, plan.within])?
            }
        };
        if images_of.asked.is_empty() {
            let (within, n) = (plan.within, texts.len());
            let detail = format!(
                "expected texts whose own image is among the nearest {within}, and others that are not theirs: received none of {n}; hint: if many images have the same texts, nothing tells them apart"
            );
            return Err(Error::BadPairs { detail });
        }
        let (joined, single): (Vec<usize>, Vec<usize>) =
            images_of.asked.iter().partition(|&&text| pairs.is_joined(text));
        let texts: Vec<usize> = texts.into_iter().filter(|&text| !pairs.is_joined(text)).collect();
        let texts_of = (plan.image_to_text > 0.0 && plan.block == 0)
            .then(|| Nearest::texts_of(pairs, train, &texts, plan.n_nearest, plan.within))
            .filter(|nearest| !nearest.asked.is_empty());
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let grouped = train.iter().filter_map(|&image| Some((*pairs.group_of.get(image)?, image)));
        grouped.for_each(|(group, image)| groups.entry(group).or_default().push(image));
        let mut by_fold: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        train.iter().for_each(|&image| by_fold.entry(pairs.fold(image)).or_default().push(image));
        Ok(Draws { pairs, train: by_fold, images_of, single, joined, texts_of, own, groups })
    }

    /// (text, image) pairs, list after list, in each the one that belongs first.
    fn lists(&self, plan: &Plan, rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
        match plan.block {
            0 => (0..plan.n_lists).flat_map(|_| self.list(plan, rng)).collect(),
            block => (0..plan.n_lists.div_ceil(block)).flat_map(|_| self.block(plan, rng)).collect(),
        }
    }

    /// The texts of a step, and (text, image) pairs by their place among them and that of the image: list after list, in each the one
    /// that belongs first. Some of the texts that join others join only some of those, drawn anew, as their mean: there are many more of them
    /// than of whole ones, and a network that has seen each a few times has not learnt them by heart.
    pub fn step(&self, plan: &Plan, rng: &mut ChaCha8Rng) -> (Items, Vec<(usize, usize)>) {
        let lists = self.lists(plan, rng);
        let (mut texts, mut pairs) = (Items::like(&self.pairs.texts), Vec::with_capacity(lists.len()));
        let mut place_of: BTreeMap<usize, usize> = BTreeMap::new();
        for list in lists.chunks(plan.list_length) {
            let asks_with =
                (plan.block == 0).then_some(list[0].0).filter(|&text| list.iter().all(|pair| pair.0 == text));
            if let Some(some) = asks_with.and_then(|text| self.some_parts(text, plan, rng)) {
                pairs.extend(list.iter().map(|&(_, image)| (texts.n(), image)));
                texts.push_mean(&self.pairs.texts, &some);
                continue;
            }
            for &(text, image) in list {
                let place = *place_of.entry(text).or_insert_with(|| {
                    texts.push_mean(&self.pairs.texts, &[text]);
                    texts.n() - 1
                });
                pairs.push((place, image));
            }
        }
        (texts, pairs)
    }

    /// Two or more of what a text joins, if it is one of those that are to join only some.
    fn some_parts(&self, text: usize, plan: &Plan, rng: &mut ChaCha8Rng) -> Option<Vec<usize>> {
        let parts = self.pairs.parts.get(&text).filter(|parts| parts.len() > 2)?;
        if !rng.random_bool(plan.joined_in_part) {
            return None;
        }
        let n = rng.random_range(2..=parts.len().min(MAX_PARTS));
        Some(parts.choose_multiple(rng, n).copied().collect())
    }

    fn list(&self, plan: &Plan, rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
        let mut pairs = Vec::with_capacity(plan.list_length);
        match &self.texts_of {
            Some(texts_of) if rng.random_bool(plan.image_to_text) => {
                let image = pick(&texts_of.asked, rng);
                pairs.push((pick(&self.own[image][0], rng), image));
                let others = texts_of.draw(image, plan.list_length - 1, rng);
                pairs.extend(others.into_iter().map(|text| (text, image)));
            }
            _ => {
                let text = pick(self.kind_of_text(plan, rng), rng);
                pairs.push((text, self.pairs.owner_of[text]));
                let others = self.images_of.draw(text, plan.list_length - 1, rng);
                pairs.extend(others.into_iter().map(|image| (text, image)));
            }
        }
        pairs
    }

    /// As many lists as the block has images; in each the own one first, then the others of the block in their order, then some that are
    /// drawn from everywhere.
    fn block(&self, plan: &Plan, rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
        let members = self.members(plan, rng);
        let n_far = plan.list_length - members.len();
        let mut pairs = Vec::with_capacity(members.len() * plan.list_length);
        for (at, &(text, own)) in members.iter().enumerate() {
            let others = members.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, member)| member.1);
            pairs.extend(std::iter::once(own).chain(others).map(|image| (text, image)));
            pairs.extend((0..n_far).map(|_| (text, self.far_from(text, rng))));
        }
        pairs
    }

    /// A text that is asked and its image, then images of its group, and near ones, with a text each; none belongs to another.
    fn members(&self, plan: &Plan, rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
        let first = pick(self.kind_of_text(plan, rng), rng);
        let is_joined = usize::from(self.pairs.is_joined(first));
        let mut members = vec![(first, self.pairs.owner_of[first])];
        let group = self.pairs.group_of.get(members[0].1).and_then(|group| self.groups.get(group));
        let mut alike = group.cloned().unwrap_or_default();
        alike.shuffle(rng);
        let near = self.images_of.shuffled(first, rng);
        let of_fold = self.of_fold(members[0].1);
        let is_of_fold = |image: &usize| self.pairs.fold(*image) == self.pairs.fold(members[0].1);
        let tries = alike.into_iter().filter(is_of_fold).chain(near);
        let tries: Vec<usize> = tries.chain((0..MAX_TRIES).map(|_| pick(of_fold, rng))).collect();
        for image in tries {
            // An image without a text of the same kind lends one of the other.
            let texts = [is_joined, 1 - is_joined].map(|kind| &self.own[image][kind]);
            let Some(texts) = texts.into_iter().find(|texts| !texts.is_empty()) else { continue };
            let text = pick(texts, rng);
            let belongs = |text: usize, image: usize| self.pairs.belongs(text, image);
            if members.len() < plan.block
                && members.iter().all(|&(other, of)| !belongs(text, of) && !belongs(other, image))
            {
                members.push((text, image));
            }
        }
        // There are too few.
        let found = members.clone();
        members.extend(found.into_iter().cycle().take(plan.block - members.len()));
        members
    }

    fn far_from(&self, text: usize, rng: &mut ChaCha8Rng) -> usize {
        let of_fold = self.of_fold(self.pairs.owner_of[text]);
        let mut tries = (0..MAX_TRIES).map(|_| pick(of_fold, rng));
        tries.find(|&image| !self.pairs.belongs(text, image)).unwrap_or(of_fold[0])
    }

    /// Images to learn from that lie in the fold of one.
    fn of_fold(&self, image: usize) -> &[usize] {
        &self.train[&self.pairs.fold(image)]
    }

    fn kind_of_text(&self, plan: &Plan, rng: &mut ChaCha8Rng) -> &[usize] {
        let wants_joined = rng.random_bool(plan.joined);
        match (self.single.is_empty(), self.joined.is_empty()) {
            (false, true) => &self.single,
            (true, _) => &self.joined,
            _ if wants_joined => &self.joined,
            _ => &self.single,
        }
    }
}

fn pick<T: Copy>(from: &[T], rng: &mut ChaCha8Rng) -> T {
    from[rng.random_range(0..from.len())]
}

/// Of logits (lists, length) in blocks of lists that begin as `Draws::lists` lays them out: each image's over the texts of its block, its
/// own first. (lists, block)
pub(super) fn turned(logits: &Tensor, block: usize) -> Result<Tensor> {
    let (n_lists, length) = logits.dims2()?;
    let mut at = Vec::with_capacity(n_lists * block);
    for first in (0..n_lists).step_by(block) {
        for image in 0..block {
            let own = std::iter::once(image);
            for text in own.chain((0..block).filter(|&text| text != image)) {
                let place = match image.cmp(&text) {
                    std::cmp::Ordering::Equal => 0,
                    std::cmp::Ordering::Less => image + 1,
                    std::cmp::Ordering::Greater => image,
                };
                at.push(((first + text) * length + place) as u32);
            }
        }
    }
    let at = Tensor::from_vec(at, n_lists * block, logits.device())?;
    logits.flatten_all()?.index_select(&at, 0)?.reshape((n_lists, block))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fusion::{Items, Kind};

    fn draws<'a>(plan: &'a Plan, pairs: &'a Pairs, train: &'a [usize]) -> Draws<'a> {
        let (device, mining) = (crate::Device::Cpu, Mining::Exact);
        Draws::new(&Options { plan, pairs, train, held_out: &[], device, checkpoint: None, mining }, 0).unwrap()
    }

    /// Blocks are of one group as far as it goes, and nobody in one belongs to another.
    #[test]
    fn a_block_is_drawn_from_a_group_and_has_no_answer_twice() {
        let n = 30;
        let items = || Items { dim: 2, vectors: (0..2 * n).map(|at| (at as f32).sin()).collect(), ..Items::default() };
        let mut pairs = Pairs {
            images: items(),
            texts: items(),
            owner_of: (0..n).collect(),
            group_of: (0..n).map(|at| at / 5).collect(),
            ..Pairs::default()
        };
        // Texts 0 and 1 are equal.
        let both = Arc::new([0, 1].into());
        pairs.shared = [(0, Arc::clone(&both)), (1, both)].into();
        let train: Vec<usize> = (0..25).collect();
        let mut plan = Plan::new(Kind::Mlp, 1, 1);
        (plan.n_lists, plan.list_length, plan.block, plan.within) = (200, 6, 4, n);
        let draws = draws(&plan, &pairs, &train);
        let lists = draws.lists(&plan, &mut ChaCha8Rng::seed_from_u64(2));
        assert_eq!(lists.len(), 200 * 6);
        for list in lists.chunks(6) {
            let text = list[0].0;
            assert!(list.iter().all(|&(of, image)| of == text && image < 25));
            assert_eq!(list[0].1, pairs.owner_of[text]);
            assert!(list[1..].iter().all(|&(_, image)| !pairs.belongs(text, image)), "{list:?}");
        }
        for block in lists.chunks(4 * 6) {
            let own: Vec<usize> = block.chunks(6).map(|list| list[0].1).collect();
            for (at, list) in block.chunks(6).enumerate() {
                let others: Vec<usize> = own.iter().copied().filter(|&image| image != own[at]).collect();
                assert_eq!(list[1..4].iter().map(|pair| pair.1).collect::<Vec<_>>(), others);
            }
            assert!(own.iter().all(|image| image / 5 == own[0] / 5), "{own:?}");
        }
    }

    /// A text is compared with images of its own fold alone, near or far, whichever side asks.
    #[test]
    fn lists_stay_in_their_fold() {
        let n = 60;
        let items = || Items { dim: 2, vectors: (0..2 * n).map(|at| (at as f32).sin()).collect(), ..Items::default() };
        let pairs = Pairs {
            images: items(),
            texts: items(),
            owner_of: (0..n).collect(),
            group_of: (0..n).map(|at| at / 5).collect(),
            fold_of: (0..n).map(|at| at % 3).collect(),
            ..Pairs::default()
        };
        let train: Vec<usize> = (0..50).collect();
        for block in [0, 4] {
            let mut plan = Plan::new(Kind::Mlp, 1, 1);
            (plan.n_lists, plan.list_length, plan.block, plan.within, plan.image_to_text) = (200, 6, block, n, 0.5);
            let draws = draws(&plan, &pairs, &train);
            let lists = draws.lists(&plan, &mut ChaCha8Rng::seed_from_u64(2));
            assert!(lists.iter().all(|&(text, image)| text % 3 == image % 3 && image < 50));
            assert_eq!(lists.iter().map(|&(text, _)| text % 3).collect::<std::collections::BTreeSet<_>>().len(), 3);
        }
    }

    /// A text that joins others asks as it is, or as the mean of some of them; the rest of the list is the same.
    #[test]
    fn some_of_the_texts_ask_as_their_mean() {
        let n = 12;
        let of = |at: usize| [(at as f32).cos(), (at as f32).sin()];
        // Of each image three texts, and the one that joins them.
        let vectors = |n: usize, step: usize| (0..n).flat_map(|at| of(at / step)).collect();
        let pairs = Pairs {
            images: Items { dim: 2, vectors: vectors(n, 1), ..Items::default() },
            texts: Items { dim: 2, vectors: vectors(4 * n, 1), ..Items::default() },
            owner_of: (0..4 * n).map(|at| at / 4).collect(),
            parts: (0..n).map(|at| (4 * at + 3, vec![4 * at, 4 * at + 1, 4 * at + 2])).collect(),
            ..Pairs::default()
        };
        let train: Vec<usize> = (0..n).collect();
        let mut plan = Plan::new(Kind::Mlp, 1, 1);
        (plan.n_lists, plan.list_length, plan.within) = (300, 4, n);
        (plan.joined, plan.joined_in_part) = (0.7, 0.5);
        let draws = draws(&plan, &pairs, &train);
        let (texts, lists) = draws.step(&plan, &mut ChaCha8Rng::seed_from_u64(2));
        let (mut n_as_they_are, mut n_means) = (0, 0);
        for list in lists.chunks(4) {
            let (text, own) = list[0];
            assert!(list.iter().all(|pair| pair.0 == text) && list[1..].iter().all(|pair| pair.1 != own));
            let vector = &texts.vectors[2 * text..][..2];
            match (0..4).any(|at| vector == of(4 * own + at)) {
                true => n_as_they_are += 1,
                false => {
                    n_means += 1;
                    assert!((vector[0].hypot(vector[1]) - 1.0).abs() < 1e-6);
                    // Between the first and the last of its own image's texts, on the circle.
                    let angle = vector[1].atan2(vector[0]).rem_euclid(std::f32::consts::TAU);
                    let ahead = (angle - (4 * own) as f32).rem_euclid(std::f32::consts::TAU);
                    assert!((0.4..1.6).contains(&ahead), "{ahead}");
                }
            }
        }
        // Of 300 lists 210 ask with what is joined, half of them with some of it.
        assert!((70..140).contains(&n_means), "{n_means} {n_as_they_are}");
    }

    #[test]
    fn each_image_of_a_block_is_turned_to_its_texts() {
        // Two blocks of three lists, of four each; a logit says which text and which image it is of.
        let (block, length) = (3, 4);
        let mut logits = Vec::new();
        for text in 0..6usize {
            let others = (0..3).map(|at| text / block * block + at).filter(|&image| image != text);
            logits.extend(std::iter::once(text).chain(others).map(|image| (10 * text + image) as f32));
            logits.push(-1.0);
        }
        let logits = Tensor::from_vec(logits, (6, length), &candle_core::Device::Cpu).unwrap();
        let received = turned(&logits, block).unwrap().to_vec2::<f32>().unwrap();
        let expected: Vec<Vec<f32>> = (0..6usize)
            .map(|image| {
                let others = (0..3).map(|at| image / block * block + at).filter(|&text| text != image);
                std::iter::once(image).chain(others).map(|text| (10 * text + image) as f32).collect()
            })
            .collect();
        assert_eq!(received, expected);
    }
}
