//! Random numbers that are cheap and the same everywhere: SplitMix64 (Steele, Lea, Flood 2014), started from seed and name.

pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64, name: &str) -> Noise {
        let hash = blake3::hash(format!("{seed} {name}").as_bytes());
        Noise(u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes")))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Two normal numbers, by Box and Muller.
    pub(crate) fn normals(&mut self) -> [f32; 2] {
        let bits = self.bits();
        let part = |bits: u64| (bits >> 8 & 0xff_ffff) as f32 / 16_777_216.0;
        let (radius, turn) = ((-2.0 * (1.0 - part(bits)).ln()).sqrt(), std::f32::consts::TAU * part(bits >> 32));
        [radius * turn.cos(), radius * turn.sin()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_are_normal() {
        let mut noise = Noise::new(1, "x");
        let all: Vec<f32> = (0..50_000).flat_map(|_| noise.normals()).collect();
        let n = all.len() as f32;
        let (mean, square) = (all.iter().sum::<f32>() / n, all.iter().map(|x| x * x).sum::<f32>() / n);
        assert!(mean.abs() < 0.02 && (square - 1.0).abs() < 0.02, "{mean} {square}");
        let beyond = all.iter().filter(|x| x.abs() > 1.96).count() as f32 / n;
        assert!((beyond - 0.05).abs() < 0.005, "{beyond}");
        assert_ne!(Noise::new(1, "x").bits(), Noise::new(2, "x").bits());
        assert_ne!(Noise::new(1, "x").bits(), Noise::new(1, "y").bits());
    }
}
