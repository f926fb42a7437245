//! Which vector instructions a loop is compiled for.

/// Runs a loop compiled for the widest vector unit that is there; the result is the same on all.
pub(crate) fn on_best_unit<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn wide<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: the instructions were just found to be there.
        return unsafe { wide(work) };
    }
    work()
}
