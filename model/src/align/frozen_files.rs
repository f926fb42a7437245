//! Images that another encoder embedded, with their ids, as they lie in files or as a caller has them.

use std::path::{Path, PathBuf};

use super::{
    arrays::{self, Array, bad},
    facet_store::check_lengths,
    frozen_images::Rows,
};
use crate::{Error, Result};

/// Of each image an id, a vector, and perhaps a few tokens.
pub struct FrozenImages {
    /// What errors name.
    pub(super) origin: PathBuf,
    pub(super) ids: Vec<String>,
    pub(super) vectors: Rows,
    pub(super) tokens: Option<Rows>,
}

impl std::fmt::Debug for FrozenImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} images of {}", self.ids.len(), self.origin.display())
    }
}

impl FrozenImages {
    /// From vectors (n, dim), tokens (n, tokens, dim) and the ids of the rows, which are in `x.ids.txt` or `x.ids.json` beside
    /// `x.npy` if no file is named.
    pub fn read(embeddings: &Path, tokens: Option<&Path>, ids: Option<&Path>) -> Result<FrozenImages> {
        let vectors = rows(embeddings, arrays::read(embeddings, "image")?)?;
        if vectors.n_tokens != 1 {
            return Err(bad(
                embeddings,
                format!("expected shape (n, dim), received {} tokens a row", vectors.n_tokens),
            ));
        }
        let read_tokens = |path| -> Result<Rows> { rows(path, arrays::read(path, "image.tokens")?) };
        let tokens = tokens.map(|path| Ok::<_, Error>((path, read_tokens(path)?))).transpose()?;
        let ids_path = match ids {
            Some(path) => path.to_owned(),
            None => ["ids.txt", "ids.json"]
                .map(|extension| embeddings.with_extension(extension))
                .into_iter()
                .find(|path| path.exists())
                .ok_or_else(|| bad(embeddings, "no ids beside it; hint: name their file with --ids".to_owned()))?,
        };
        let ids = arrays::read_ids(&ids_path)?;
        check_ids(&ids, &ids_path)?;
        let counts = [(ids_path.as_path(), ids.len())].into_iter();
        let counts = counts.chain(tokens.as_ref().map(|(path, rows): &(&Path, Rows)| (*path, rows.n())));
        for (path, n) in counts {
            if n != vectors.n() {
                return Err(bad(path, format!("expected {} rows, as the embeddings have, received {n}", vectors.n())));
            }
        }
        FrozenImages { origin: embeddings.to_owned(), ids, vectors, tokens: tokens.map(|(_, rows)| rows) }.checked()
    }

    /// From memory: vectors (n, dim), and of tokens how many a row has and (n, tokens, dim). `Error::BadData`, which names `origin`, if
    /// they are not as many as the ids or hold what is no number.
    pub fn new(
        origin: &Path,
        ids: Vec<String>,
        vectors: Vec<f32>,
        tokens: Option<(usize, Vec<f32>)>,
    ) -> Result<FrozenImages> {
        let n = ids.len();
        let check = |what: &str, values: &[f32], parts: usize| -> Result<usize> {
            if n == 0 || values.is_empty() || !values.len().is_multiple_of(n * parts) {
                let detail = format!("{what}: expected rows of {n} images, received {} numbers", values.len());
                return Err(bad(origin, detail));
            }
            match values.iter().find(|x| !x.is_finite()) {
                Some(x) => Err(bad(origin, format!("{what}: expected finite numbers, received {x}"))),
                None => Ok(values.len() / (n * parts)),
            }
        };
        check_ids(&ids, origin)?;
        let dim = check("vectors", &vectors, 1)?;
        let tokens = match tokens {
            Some((n_tokens, values)) => {
                let dim = check("tokens", &values, n_tokens.max(1))?;
                Some(Rows { n_tokens: n_tokens.max(1), dim, values: values.into() })
            }
            None => None,
        };
        let vectors = Rows { n_tokens: 1, dim, values: vectors.into() };
        FrozenImages { origin: origin.to_owned(), ids, vectors, tokens }.checked()
    }

    /// Vectors whose lengths are past what a float holds would all become the same.
    fn checked(self) -> Result<FrozenImages> {
        let what = |at: usize| format!("image {:?}", self.ids[at]);
        check_lengths(&self.vectors.values, self.vectors.dim, what).map_err(|detail| bad(&self.origin, detail))?;
        Ok(self)
    }

    pub(super) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        for id in &self.ids {
            hasher.update(&(id.len() as u64).to_le_bytes()).update(id.as_bytes());
        }
        for rows in [Some(&self.vectors), self.tokens.as_ref()].into_iter().flatten() {
            let shape = [rows.n_tokens, rows.dim].map(|n| n as u64);
            hasher.update(bytemuck::cast_slice(&shape)).update(bytemuck::cast_slice(rows.values.as_slice()));
        }
    }

    /// (n, dim)
    pub fn vectors(&self) -> &[f32] {
        &self.vectors.values
    }

    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Numbers of a vector, tokens of an image, and numbers of a token; 0 where there are no tokens.
    pub fn shape(&self) -> (usize, usize, usize) {
        let (n_tokens, token_dim) = self.tokens.as_ref().map_or((0, 0), |tokens| (tokens.n_tokens, tokens.dim));
        (self.vectors.dim, n_tokens, token_dim)
    }

    /// (n, tokens, dim), if there are any.
    pub fn tokens(&self) -> Option<&[f32]> {
        self.tokens.as_ref().map(|rows| rows.values.as_slice())
    }
}

/// No id twice: it would be learnt from twice, and found twice.
fn check_ids(ids: &[String], path: &Path) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    match ids.iter().find(|id| !seen.insert(id.as_str())) {
        Some(id) => Err(bad(path, format!("expected each id once, received {id:?} twice"))),
        None => Ok(()),
    }
}

fn rows(path: &Path, array: Array) -> Result<Rows> {
    match array.shape[..] {
        [n, dim] if n > 0 && dim > 0 => Ok(Rows { n_tokens: 1, dim, values: array.values.into() }),
        [n, n_tokens, dim] if n > 0 && n_tokens > 0 && dim > 0 => {
            Ok(Rows { n_tokens, dim, values: array.values.into() })
        }
        _ => Err(bad(path, format!("expected shape (n, dim) or (n, tokens, dim), received {:?}", array.shape))),
    }
}
