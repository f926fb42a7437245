//! Arithmetic on vectors: scaling to unit length, and the dot product, which for unit vectors is the cosine.
//!
//! The kernel is chosen once, by what the processor has: AVX-512, AVX2 with FMA, NEON, or plain Rust. All answers of one
//! process come from the same kernel, so that equal vectors have equal scores however they were found.

use std::sync::OnceLock;

/// Why a vector has no direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotADirection {
    /// The number at this position is not finite.
    NotFinite(usize),
    Zero,
}

/// The vector scaled to length one. Sums in f64: the square of any f32 fits, be it huge or subnormal.
pub fn to_unit(vector: &[f32]) -> Result<Vec<f32>, NotADirection> {
    if let Some(position) = vector.iter().position(|x| !x.is_finite()) {
        return Err(NotADirection::NotFinite(position));
    }
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if length == 0.0 {
        return Err(NotADirection::Zero);
    }
    Ok(vector.iter().map(|&x| (f64::from(x) / length) as f32).collect())
}

/// The cosine of two unit vectors of equal length, held within -1..=1 against rounding.
#[inline]
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    dot(a, b).clamp(-1.0, 1.0)
}

/// The dot product of two vectors of equal length.
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of one collection have one dimension");
    kernel()(a, b)
}

/// A dot product of slices of equal length.
pub type Kernel = fn(&[f32], &[f32]) -> f32;

/// The fastest kernel this processor can run.
#[inline]
pub fn kernel() -> Kernel {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    *KERNEL.get_or_init(choose)
}

fn choose() -> Kernel {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was detected.
            return |a, b| unsafe { x86::dot_avx512(a, b) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were detected.
            return |a, b| unsafe { x86::dot_avx2(a, b) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        // SAFETY: the feature was detected.
        return |a, b| unsafe { arm::dot_neon(a, b) };
    }
    dot_plain
}

fn dot_plain(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub fn dot_avx512(a: &[f32], b: &[f32]) -> f32 {
        let len = a.len().min(b.len());
        let (pa, pb) = (a.as_ptr(), b.as_ptr());
        let mut sums = [_mm512_setzero_ps(); 4];
        let mut i = 0;
        while i + 64 <= len {
            for (lane, sum) in sums.iter_mut().enumerate() {
                // SAFETY: i + 64 <= len, so all 16 numbers from i + 16 * lane on are inside both slices.
                let (x, y) =
                    unsafe { (_mm512_loadu_ps(pa.add(i + 16 * lane)), _mm512_loadu_ps(pb.add(i + 16 * lane))) };
                *sum = _mm512_fmadd_ps(x, y, *sum);
            }
            i += 64;
        }
        while i < len {
            let mask = if len - i >= 16 { u16::MAX } else { (1 << (len - i)) - 1 };
            // SAFETY: the mask leaves only positions below len.
            let (x, y) = unsafe { (_mm512_maskz_loadu_ps(mask, pa.add(i)), _mm512_maskz_loadu_ps(mask, pb.add(i))) };
            sums[0] = _mm512_fmadd_ps(x, y, sums[0]);
            i += 16;
        }
        let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
        _mm512_reduce_add_ps(sum)
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
        let len = a.len().min(b.len());
        let (pa, pb) = (a.as_ptr(), b.as_ptr());
        let mut sums = [_mm256_setzero_ps(); 4];
        let mut i = 0;
        while i + 32 <= len {
            for (lane, sum) in sums.iter_mut().enumerate() {
                // SAFETY: i + 32 <= len, so all 8 numbers from i + 8 * lane on are inside both slices.
                let (x, y) = unsafe { (_mm256_loadu_ps(pa.add(i + 8 * lane)), _mm256_loadu_ps(pb.add(i + 8 * lane))) };
                *sum = _mm256_fmadd_ps(x, y, *sum);
            }
            i += 32;
        }
        let sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
        let mut lanes = [0f32; 8];
        // SAFETY: `lanes` holds the 8 numbers that are stored.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
        let tail: f32 = a[i..len].iter().zip(&b[i..len]).map(|(x, y)| x * y).sum();
        lanes.iter().sum::<f32>() + tail
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    #[target_feature(enable = "neon")]
    pub fn dot_neon(a: &[f32], b: &[f32]) -> f32 {
        let len = a.len().min(b.len());
        let (pa, pb) = (a.as_ptr(), b.as_ptr());
        let mut sums = [vdupq_n_f32(0.0); 4];
        let mut i = 0;
        while i + 16 <= len {
            for (lane, sum) in sums.iter_mut().enumerate() {
                // SAFETY: i + 16 <= len, so all 4 numbers from i + 4 * lane on are inside both slices.
                let (x, y) = unsafe { (vld1q_f32(pa.add(i + 4 * lane)), vld1q_f32(pb.add(i + 4 * lane))) };
                *sum = vfmaq_f32(*sum, x, y);
            }
            i += 16;
        }
        let sum = vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]));
        let tail: f32 = a[i..len].iter().zip(&b[i..len]).map(|(x, y)| x * y).sum();
        vaddvq_f32(sum) + tail
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    fn kernels() -> Vec<(&'static str, Kernel)> {
        let mut kernels: Vec<(&'static str, Kernel)> = vec![("plain", dot_plain), ("chosen", kernel())];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were detected.
            kernels.push(("avx2", |a, b| unsafe { x86::dot_avx2(a, b) }));
        }
        kernels
    }

    #[test]
    fn every_kernel_agrees_with_the_obvious_sum_at_every_length() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for len in (0..200).chain([767, 768, 769, 1000]) {
            let a: Vec<f32> = (0..len).map(|_| rng.random_range(-1.0..1.0)).collect();
            let b: Vec<f32> = (0..len).map(|_| rng.random_range(-1.0..1.0)).collect();
            let expected: f64 = a.iter().zip(&b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            for (name, kernel) in kernels() {
                assert!((f64::from(kernel(&a, &b)) - expected).abs() < 1e-4, "{name} at length {len}");
            }
        }
    }

    #[test]
    fn any_finite_direction_becomes_unit_length() {
        for vector in [&[3.0, 4.0][..], &[f32::MAX; 4], &[f32::MIN_POSITIVE / 4.0, 0.0], &[1e-45], &[-0.0, -2e38]] {
            let unit = to_unit(vector).unwrap();
            let length: f64 = unit.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            assert!((length - 1.0).abs() < 1e-6, "{vector:?} became {unit:?}");
        }
        assert_eq!(to_unit(&[1.0, f32::NAN]), Err(NotADirection::NotFinite(1)));
        assert_eq!(to_unit(&[f32::INFINITY]), Err(NotADirection::NotFinite(0)));
        assert_eq!(to_unit(&[0.0, -0.0]), Err(NotADirection::Zero));
    }
}
