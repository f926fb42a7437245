//! Whether a model fits into the machine's memory, asked before it is loaded.

use std::path::Path;

use crate::{Error, Result};

/// `Error::TooLittleMemory` if so many bytes are not to be had; where the machine does not say, nothing is refused.
pub(crate) fn check(model: &Path, needed_bytes: u64) -> Result<()> {
    fits(model, needed_bytes, available_bytes())
}

fn fits(model: &Path, needed_bytes: u64, available_bytes: Option<u64>) -> Result<()> {
    match available_bytes.filter(|&available| available < needed_bytes) {
        Some(available_bytes) => Err(Error::TooLittleMemory { file: model.to_owned(), needed_bytes, available_bytes }),
        None => Ok(()),
    }
}

/// What could be taken without swapping: of the machine, and of the container if there is one.
pub(crate) fn available_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_meminfo(&text));
    let container = of_cgroup(Path::new("/sys/fs/cgroup"));
    machine.into_iter().chain(container).min()
}

/// Of a cgroup of version 2 with a limit. Its file cache counts as used there, but what lies idle is given back when needed.
fn of_cgroup(folder: &Path) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    let idle = read("memory.stat").and_then(|text| of_stat(&text)).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(idle)))
}

fn of_stat(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse().ok()
}

fn of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_linux_is_read() {
        let text = "MemTotal:       24646288 kB\nMemFree:          170544 kB\nMemAvailable:   22894580 kB\n";
        assert_eq!(of_meminfo(text), Some(22_894_580 * 1024));
        for other in ["", "MemAvailable: much", "MemAvailable: -1 kB", "MemAvailable: 18446744073709551615 kB"] {
            assert_eq!(of_meminfo(other), None, "{other:?}");
        }
        #[cfg(target_os = "linux")]
        assert!(available_bytes().is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn the_limit_of_a_container_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let check = |expected: Option<u64>| assert_eq!(of_cgroup(dir.path()), expected);
        check(None);
        write("memory.max", "1000\n");
        check(None);
        write("memory.current", "900\n");
        check(Some(100));
        write("memory.stat", "anon 600\ninactive_file 250\n");
        check(Some(350));
        write("memory.current", "1300\n");
        check(Some(0));
        write("memory.max", "max\n");
        check(None);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let model = Path::new("llm");
        assert!(fits(model, 10, Some(10)).is_ok() && fits(model, u64::MAX, None).is_ok());
        let error = fits(model, 11, Some(10)).unwrap_err().to_string();
        assert_eq!(
            error,
            "llm: needs 11 bytes of memory, 10 are available; hint: a GGUF file of the same model is smaller"
        );
    }
}
