"""What a profile says, as the table, the JSON, the plots and the page all read it.

Times are in seconds, sizes in bytes, work in multiply-accumulates (MACs). What was not measured is None, never zero.
"""
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple, TypedDict

__all__ = [
    'FORMAT', 'Agreement', 'Cache', 'Case', 'CaseResult', 'Cold', 'CoreGroup', 'CudaMemory', 'Environment', 'Estimate',
    'EstimateCheck', 'Gpu', 'Latency', 'LayerTime', 'Load', 'Memory', 'Peaks', 'Percentile', 'Profile', 'StageWork',
    'Transfers', 'Work',
]

FORMAT = 1  # of the JSON; raised when a key changes its meaning


@dataclass(frozen=True)
class Case:
    """One thing that is measured, in processes of its own."""

    model: str  # as the user named it
    runtime: str  # a name of rsq_backbone.runtimes.RUNTIMES
    device: str  # 'cpu' or 'cuda'
    threads: int
    batch: int
    input_size: Tuple[int, int, int]  # channels, height, width
    cores: Tuple[int, ...] = ()  # that its process is pinned to; none: wherever the system puts it
    cpu_isa: Optional[str] = None  # 'sse41', 'avx2' or 'avx512': the newest instructions that it may use
    memory_cap: Optional[int] = None
    gpu_memory_cap: Optional[int] = None
    end_to_end: bool = False  # from the bytes of a JPEG to the class


@dataclass(frozen=True)
class Cold:
    """What comes before the first result is there, each apart."""

    imports: float  # of the runtime's libraries
    build: Optional[float]  # of the network; None where a file holds it
    prepare: Optional[float]  # export to a file, or compilation; None where there is none
    load: Optional[float]  # of that file, into the runtime
    first_call: float


@dataclass(frozen=True)
class Percentile:
    """Of the samples, with the order statistics that enclose the true one with at least 95 %."""

    value: float
    low: float
    high: Optional[float]  # None where the largest sample is not large enough to be sure


@dataclass(frozen=True)
class Latency:
    """Of one call, on one batch."""

    samples: Tuple[float, ...]  # every call that was timed, in order
    rounds: Tuple[float, ...]  # median of the calls of each round; the cases of a profile took turns in each
    group: int  # cases with the same number took turns, so that their rounds can be compared one by one
    warm_up_calls: int
    steady: bool  # whether the warm-up ended because calls took the same time again, and not because of its limit
    minimum: float
    p50: Optional[Percentile]  # None where the samples are too few (11, 64, 662)
    p90: Optional[Percentile]
    p99: Optional[Percentile]
    mean: float
    standard_deviation: float
    spread: float  # interquartile range as a share of the median
    verdict: str  # 'ok', 'noisy' (spread above 10 %) or 'rejected' (above 25 %)


@dataclass(frozen=True)
class CudaMemory:
    allocated: int  # peaks of PyTorch's allocator
    reserved: int
    process: Optional[int]  # of this process on the device, as the driver counts it, its context included
    context: Optional[int]  # of a process that has done nothing but open the device
    device: int  # in use on the device by all processes, at the peak


@dataclass(frozen=True)
class Memory:
    weights_on_disk: Optional[int]
    weights_in_memory: Optional[int]
    baseline: Optional[int]  # resident in a process that has loaded the runtime and nothing else
    peak: Optional[int]  # largest resident size of the case's process; above this, other programs would be pushed out
    cuda: Optional[CudaMemory] = None

    @property
    def own(self) -> Optional[int]:
        """What the network adds to a process that has the runtime."""
        return None if self.peak is None or self.baseline is None else max(self.peak - self.baseline, 0)


@dataclass(frozen=True)
class Transfers:
    """Between the computer and its GPU, which no latency contains. Seconds, medians; from and to ordinary memory."""

    to_device: float  # of the inputs
    to_host: float  # of the outputs


@dataclass(frozen=True)
class Agreement:
    """With the same network on the same input under PyTorch eager."""

    max_abs_difference: Optional[float]  # None where one of the outputs is not finite
    largest_output: Optional[float]  # magnitude in the eager output, by which the difference is judged
    top1_agreement: float  # share of the positions with the same largest class


@dataclass(frozen=True)
class LayerTime:
    name: str
    type: str
    seconds: float  # median; taken in a pass of its own, which is slower than a call without timers


@dataclass(frozen=True)
class Load:
    """What else the machine did while a case was measured; None where the system does not tell."""

    foreign_cores: Optional[float]  # busy with other processes
    steal: Optional[float]  # share of the time that the cores had work for which a hypervisor gave to others
    pressure: Optional[float]  # share of the time that a thread, of the case or another, waited for a core (PSI, some)
    frequency_before: Optional[float]  # MHz, of the core that was the fastest at that moment
    frequency_after: Optional[float]
    temperature_before: Optional[float]  # degrees Celsius, of the hottest sensor
    temperature_after: Optional[float]
    throttled: Optional[int] = None  # times that a core slowed itself down because it was hot (Intel, Linux)
    load_average_before: Optional[Tuple[float, float, float]] = None  # of 1, 5 and 15 minutes, before any case ran
    load_average_after: Optional[Tuple[float, float, float]] = None
    foreign_gpu_processes: Optional[int] = None  # None as well where no GPU is measured


@dataclass(frozen=True)
class CaseResult:
    case: Case
    # 'measured', 'not installed', 'refused' (by model or runtime), 'does not fit', 'crashed' or 'interrupted'
    status: str
    message: str = ''  # one line: why, and how to mend it
    threads: Optional[int] = None  # as the runtime itself said once it had run
    cold: Optional[Cold] = None
    latency: Optional[Latency] = None  # as the caller waits for it
    device_latency: Optional[Latency] = None  # the same calls by the GPU's own clock (CUDA events)
    transfers: Optional[Transfers] = None  # of cases on a GPU
    energy: Optional[float] = None  # joules a call, of the whole processor package; None where nothing tells
    memory: Optional[Memory] = None
    agreement: Optional[Agreement] = None
    layers: Tuple[LayerTime, ...] = ()
    load: Optional[Load] = None
    notes: Tuple[str, ...] = ()


@dataclass(frozen=True)
class StageWork:
    """Of one picture, in the network's top-level parts (of Res-SqueezeNet: conv1, pool1, fire2, ...)."""

    name: str
    parameters: int
    macs: int
    activations: int  # values that convolutions, matrix products and attention put out
    bytes_moved: int  # weights once, and what each layer reads and writes, as if nothing stayed in a cache


@dataclass(frozen=True)
class Work:
    """What one forward pass of one picture asks for, whatever runs it."""

    model: str
    input_size: Tuple[int, int, int]
    parameters: int
    macs: int
    activations: int
    bytes_moved: int
    peak_activations: int  # bytes of all values that are needed at the same time, at the worst moment; float32
    stages: Tuple[StageWork, ...]
    not_counted: Tuple[str, ...]  # operations without a count, by name


@dataclass(frozen=True)
class Peaks:
    """The most that this machine was seen to do, at a number of threads."""

    threads: int
    device: str
    macs_per_second: float  # float32 matrix product
    bytes_per_second: float  # read and written, by copying what no cache holds


@dataclass(frozen=True)
class Estimate:
    """Of a machine that is not here. Never to be put into one column with what was measured."""

    model: str
    input_size: Tuple[int, int, int]
    batch: int
    device: str  # its name in the table of devices
    seconds: float
    bound: str  # 'compute' or 'memory'
    memory: int
    fits: bool
    assumptions: Tuple[str, ...]


class Cache(TypedDict):
    level: int
    type: str  # 'data', 'instruction' or 'unified'
    size: int
    count: int  # caches of this kind


class CoreGroup(TypedDict):
    """Cores that change their frequency by the same rules; a processor with two kinds of cores has two or more."""

    cores: List[int]
    min_frequency: Optional[float]  # MHz
    max_frequency: Optional[float]
    governor: Optional[str]
    driver: Optional[str]


class Gpu(TypedDict):
    name: str
    driver: str
    memory: int
    memory_used: int  # by all processes, when it was asked


class Environment(TypedDict):
    """The machine. A dictionary, which JSON takes as it is; None where the system does not tell."""

    cpu: str
    architecture: str  # x86_64, aarch64, ...
    instruction_sets: Optional[List[str]]  # by Linux's names
    physical_cores: Optional[int]  # of the machine
    logical_cores: Optional[int]
    affinity: Optional[List[int]]  # logical cores that this process may use
    cpu_quota: Optional[float]  # cores that its control group (a container, a job) may keep busy; None: no quota
    usable_cores: int  # physical ones, after affinity and quota
    core_groups: List[CoreGroup]  # empty where the system does not tell, as in most virtual machines; the fastest first
    caches: List[Cache]
    hypervisor: Optional[str]  # its name, or 'none'
    memory: int
    memory_available: int
    memory_limit: Optional[int]  # of the control group; None: no limit
    swap: Optional[int]
    power: Optional[str]  # 'mains' or 'battery'; None also where there is no battery
    system: str
    python: str
    gpus: List[Gpu]
    cuda: Optional[str]  # version that PyTorch was built for
    variables: Dict[str, str]  # of the process's environment, those that change timings


@dataclass(frozen=True)
class EstimateCheck:
    """How far the method of the estimates is off where it can be seen: on this machine, by its measured peaks."""

    case: Case
    estimated: float  # seconds
    measured: float  # median, seconds


@dataclass(frozen=True)
class Profile:
    """Everything that the JSON says; its keys are these names."""

    format: int
    cases: Tuple[CaseResult, ...]
    works: Tuple[Work, ...]
    peaks: Tuple[Peaks, ...]
    estimates: Tuple[Estimate, ...]
    estimate_checks: Tuple[EstimateCheck, ...]
    environment: Environment
    seed: int
    seconds: float  # that the profile took
    command: Tuple[str, ...]
    versions: Dict[str, str]
