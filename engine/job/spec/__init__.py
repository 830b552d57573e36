"""JobSpec: every knob of a run, typed and documented, in one frozen tree; a module per block.

Each field is marked `identity` (it changes what is produced, so it is part of the folder's hash) or
`placement` (it changes where or how fast, never what). The string under a field is its help text.
Where a block has variants (teachers, losses), each variant has the fields that it reads and no
other. Nothing here reads a file or knows a machine; `jobfile.py` turns YAML into a JobSpec.
"""

from engine.job.spec.base import Block, EnvironmentVariable, Name, Task, identity, placement
from engine.job.spec.curate import CurateSpec
from engine.job.spec.curation import (
    BalanceSpec,
    DecontaminateSpec,
    DifficultySpec,
    MajoritySpec,
    NearDuplicatesSpec,
    PiiSpec,
    SelectSpec,
)
from engine.job.spec.engines import EngineSpec, Model
from engine.job.spec.evaluate import EvaluateSpec
from engine.job.spec.generate import AskingSpec, CaptureSpec, GenerateSpec
from engine.job.spec.job import JobSpec
from engine.job.spec.judge import AskedJudgeSpec, CurateJudgeSpec, JudgeSpec
from engine.job.spec.loadtest import (
    DistributionSpec,
    LoadtestSpec,
    SessionsSpec,
    SloSpec,
    TraceSpec,
)
from engine.job.spec.losses import (
    AdaptiveKlLoss,
    AnyLoss,
    DistributionLoss,
    ForwardKlLoss,
    JsdLoss,
    LossSpec,
    ReverseKlLoss,
    SftLoss,
    SkewForwardKlLoss,
    SkewReverseKlLoss,
    TvdLoss,
    UldLoss,
)
from engine.job.spec.prompts import FieldMap, PromptLeaksSpec, PromptsSpec
from engine.job.spec.report import ReportSpec
from engine.job.spec.serve import ServeSpec
from engine.job.spec.teachers import (
    API_KINDS,
    BATCH_WINDOW_H,
    BATCHED_ROWS,
    AnthropicTeacherSpec,
    ApiTeacher,
    FakeTeacherSpec,
    OpenAITeacherSpec,
    PriceSpec,
    SamplingSpec,
    TeacherSpec,
    VllmTeacherSpec,
)
from engine.job.spec.train import (
    AttentionTransferSpec,
    GatesSpec,
    HiddenSpec,
    LiveTeacherSpec,
    LoraSpec,
    TrainSpec,
)
from engine.job.spec.verify import VerifySpec

__all__ = [
    "API_KINDS",
    "BATCHED_ROWS",
    "BATCH_WINDOW_H",
    "AdaptiveKlLoss",
    "AnthropicTeacherSpec",
    "AnyLoss",
    "ApiTeacher",
    "AskedJudgeSpec",
    "AskingSpec",
    "AttentionTransferSpec",
    "BalanceSpec",
    "Block",
    "CaptureSpec",
    "CurateJudgeSpec",
    "CurateSpec",
    "DecontaminateSpec",
    "DifficultySpec",
    "DistributionLoss",
    "DistributionSpec",
    "EngineSpec",
    "EnvironmentVariable",
    "EvaluateSpec",
    "FakeTeacherSpec",
    "FieldMap",
    "ForwardKlLoss",
    "GatesSpec",
    "GenerateSpec",
    "HiddenSpec",
    "JobSpec",
    "JsdLoss",
    "JudgeSpec",
    "LiveTeacherSpec",
    "LoadtestSpec",
    "LoraSpec",
    "LossSpec",
    "MajoritySpec",
    "Model",
    "Name",
    "NearDuplicatesSpec",
    "OpenAITeacherSpec",
    "PiiSpec",
    "PriceSpec",
    "PromptLeaksSpec",
    "PromptsSpec",
    "ReportSpec",
    "ReverseKlLoss",
    "SamplingSpec",
    "SelectSpec",
    "ServeSpec",
    "SessionsSpec",
    "SftLoss",
    "SkewForwardKlLoss",
    "SkewReverseKlLoss",
    "SloSpec",
    "Task",
    "TeacherSpec",
    "TraceSpec",
    "TrainSpec",
    "TvdLoss",
    "UldLoss",
    "VerifySpec",
    "VllmTeacherSpec",
    "identity",
    "placement",
]
