//! Which named vectors are searched, and how much each counts.

use firn_index::{Collection, CollectionConfig, Reader};

use super::{Blend, Content, Error, Request, request::invalid};

/// The named vectors to search.
#[derive(Clone, Debug, PartialEq)]
pub struct Using {
    /// Each above 0.
    pub weights: Vec<(String, f32)>,
    pub is_blend: bool,
    /// The weights are the collection's, not the request's.
    pub is_kept: bool,
}

impl Using {
    /// None: only words are looked for.
    pub fn nothing() -> Using {
        Using { weights: Vec::new(), is_blend: false, is_kept: false }
    }

    /// Of all of them.
    pub fn weight(&self) -> f64 {
        self.weights.iter().map(|(_, weight)| f64::from(*weight)).sum()
    }

    pub fn names(&self) -> String {
        self.weights.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// What the request names; else the blend that the collection keeps, which says nothing to a lone vector; else one vector, or all that
/// were given alike.
pub fn of(collection: &Collection, reader: &Reader, request: &Request) -> Result<Using, Error> {
    let config = collection.config();
    if let Some(weights) = &request.blend {
        let blend = Blend::new(weights.clone());
        blend.check(config)?;
        return blended(blend, &request.content);
    }
    if request.using.is_none() && config.vectors.len() > 1 && !matches!(request.content, Content::Vector(_)) {
        if let Some(blend) = Blend::read(collection)? {
            return Ok(Using { is_kept: true, ..blended(blend, &request.content)? });
        }
        if let Content::Vectors(named) = &request.content {
            let blend = Blend::new(named.vectors.keys().map(|name| (name.clone(), 1.0)).collect());
            blend.check(config)?;
            return blended(blend, &request.content);
        }
    }
    let name = named_vector(config, reader, request.using.as_deref())?;
    Ok(Using { weights: vec![(name, 1.0)], is_blend: false, is_kept: false })
}

fn blended(blend: Blend, content: &Content) -> Result<Using, Error> {
    let weights: Vec<(String, f32)> = blend.weights.into_iter().filter(|(_, weight)| *weight > 0.0).collect();
    match content {
        Content::Vector(_) if weights.len() > 1 => {
            Err(invalid("blend", "a vector by name for each weight".to_owned(), "one vector alone".to_owned()))
        }
        _ => Ok(Using { weights, is_blend: true, is_kept: false }),
    }
}

/// The vector to search: the one asked for, else the only one, else "image" or "text", whichever first holds anything.
fn named_vector(config: &CollectionConfig, reader: &Reader, asked: Option<&str>) -> Result<String, Error> {
    let names: Vec<&str> = config.vectors.keys().map(String::as_str).collect();
    let usual = ["image", "text"].into_iter().filter(|name| names.contains(name));
    let choices: Vec<&str> = match (asked, names.as_slice()) {
        (Some(name), names) => names.iter().copied().filter(|has| *has == name).collect(),
        (None, [only]) => vec![only],
        (None, _) => usual.collect(),
    };
    for name in &choices {
        if choices.len() > 1 && reader.holds(name)? {
            return Ok((*name).to_owned());
        }
    }
    let first = choices.first().map(|name| (*name).to_owned());
    first.ok_or_else(|| invalid("using", format!("one of {names:?}"), format!("{:?}", asked.unwrap_or(""))))
}
