"""The utilisation of this process's GPUs, as NVML measures it. Empty where there is no GPU."""

import pynvml
import ray


def gpu_utilization() -> dict[str, float]:
    """Utilisation in percent by the GPU's unique id, for the GPUs that Ray gave this process."""
    indices = ray.get_gpu_ids()
    if not indices:
        return {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # logical GPUs of a machine that has none
        return {}
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(int(index)) for index in indices]
        return {
            str(pynvml.nvmlDeviceGetUUID(handle)): float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            for handle in handles
        }
    except pynvml.NVMLError:
        return {}
    finally:
        pynvml.nvmlShutdown()
