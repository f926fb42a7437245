//! Where a network computes: the CPU, or a card if this binary was built for one.

use candle_core::utils::cuda_is_available;

use crate::{Device, Error, Result};

pub(crate) fn open(device: Device) -> Result<candle_core::Device> {
    match device {
        Device::Cpu => Ok(candle_core::Device::Cpu),
        Device::Cuda => open_cuda(),
        Device::Auto if cuda_is_available() => Ok(open_cuda().unwrap_or_else(|error| {
            tracing::warn!("{error}; using the CPU");
            candle_core::Device::Cpu
        })),
        Device::Auto => Ok(candle_core::Device::Cpu),
    }
}

fn open_cuda() -> Result<candle_core::Device> {
    let refused = |detail: String| Error::NoDevice { device: "cuda".to_owned(), detail };
    if !cuda_is_available() {
        let detail = "this binary was built without CUDA; hint: build with `--features cuda`, or use `--device cpu`";
        return Err(refused(detail.to_owned()));
    }
    candle_core::Device::new_cuda(0).map_err(|e| refused(format!("{e}; hint: use `--device cpu`")))
}

/// `cpu` or `cuda:0`.
pub(crate) fn label(device: &candle_core::Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_always_there() {
        assert_eq!(label(&open(Device::Cpu).unwrap()), "cpu");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_the_feature_cuda_is_refused_and_auto_is_the_cpu() {
        assert_eq!(label(&open(Device::Auto).unwrap()), "cpu");
        assert_eq!(
            open(Device::Cuda).unwrap_err().to_string(),
            "device cuda cannot be used: this binary was built without CUDA; hint: build with `--features cuda`, or use \
             `--device cpu`"
        );
    }
}
