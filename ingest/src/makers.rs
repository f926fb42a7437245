//! Which named vectors of a collection are embedded, from what of a point, and by which model.

use firn_index::{CollectionConfig, ModelRef, Side, TokenConfig, VectorConfig};

/// The vector an image is embedded into.
pub const IMAGE_VECTOR: &str = "image";
/// The vector the texts of a point are embedded into.
pub const TEXT_VECTOR: &str = "text";

/// One way through one network.
#[derive(Clone, Debug, PartialEq)]
pub struct Maker<'a> {
    pub side: Side,
    pub model: &'a ModelRef,
    /// Of the tokens that are kept beside the vectors.
    pub tokens: Option<TokenConfig>,
    /// The vectors that hold what comes out.
    pub vectors: Vec<&'a str>,
}

/// In a fixed order. Vectors that hold the same share one.
pub fn makers(config: &CollectionConfig) -> Vec<Maker<'_>> {
    let mut makers: Vec<Maker<'_>> = Vec::new();
    for (name, vector) in &config.vectors {
        let (Some(side), Some(model)) = (side_of(name, vector), config.model_of(name)) else { continue };
        let tokens = config.tokens.get(name).copied();
        let is_same = |made: &&mut Maker<'_>| (made.side, &made.model.hash, made.tokens) == (side, &model.hash, tokens);
        match makers.iter_mut().find(is_same) {
            Some(maker) => maker.vectors.push(name),
            None => makers.push(Maker { side, model, tokens, vectors: vec![name] }),
        }
    }
    makers
}

/// The vectors of a side, whoever makes them.
pub fn vectors_of(config: &CollectionConfig, side: Side) -> Vec<&str> {
    let of = config.vectors.iter().filter(|(name, vector)| side_of(name, vector) == Some(side));
    of.map(|(name, _)| name.as_str()).collect()
}

/// What of a point a vector holds, as its configuration says, else its name; none: what points bring.
fn side_of(name: &str, vector: &VectorConfig) -> Option<Side> {
    match (&vector.embeds, name) {
        (Some(embeds), _) => Some(embeds.side),
        (None, IMAGE_VECTOR) => Some(Side::Image),
        (None, TEXT_VECTOR) => Some(Side::Text),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use firn_index::Embeds;

    use super::*;

    #[test]
    fn each_network_is_named_once() {
        let model = |name: &str| ModelRef { name: name.to_owned(), hash: format!("hash of {name}") };
        let own = |side, name| VectorConfig { dim: 2, embeds: Some(Embeds { side, model: model(name) }) };
        let vectors = [
            ("again", own(Side::Image, "a")),
            ("brought", VectorConfig::new(2)),
            ("image", VectorConfig::new(2)),
            ("mirror", own(Side::Image, "b")),
            ("words", own(Side::Text, "b")),
        ];
        let vectors = vectors.map(|(name, vector)| (name.to_owned(), vector)).into();
        let mut config = CollectionConfig { model: Some(model("a")), vectors, ..CollectionConfig::default() };
        let names = |config: &CollectionConfig| -> Vec<String> {
            makers(config).iter().map(|maker| format!("{}: {}", maker.model.name, maker.vectors.join(" "))).collect()
        };
        assert_eq!(names(&config), ["a: again image", "b: mirror", "b: words"]);
        assert_eq!(vectors_of(&config, Side::Image), ["again", "image", "mirror"]);
        config.tokens.insert("image".to_owned(), TokenConfig { n: 16, dim: 2 });
        assert_eq!(names(&config), ["a: again", "a: image", "b: mirror", "b: words"]);
        config.model = None;
        assert_eq!(names(&config), ["a: again", "b: mirror", "b: words"]);
        assert_eq!(vectors_of(&config, Side::Image), ["again", "image", "mirror"]);
    }
}
