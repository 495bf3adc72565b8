"""Every setting of a run, each declared once: its name, type, bounds, default and description.

The options of the command line, the fields of `--config` files, the keys of the run folder and
`docs/settings.md` are all made from these fields. To add a setting, add a field here and read it
where it acts; nothing else changes. Names are unique over all sections of `Settings`, so a config
file may hold them flat (`{"latents": 512}`) or by section (`{"train": {"latents": 512}}`).

Importing this module loads neither torch nor transformers: `--help` must answer at once.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from anaglyph.core.errors import InputError
from anaglyph.core.files import read_settings
from anaglyph.core.validation import Bounded, first_problem, validate

DEFAULT_METHODS = ("diff-sae", "crosscoder", "tuned-sae")
Place = Literal["all", "assistant", "first nine", "template"]
DIRECTIONS = "latent:NAME/7, mean, pca:0, finding:1, FILE.npy or FILE.parquet:ROW"
"""How a direction of the residual stream is named; `behaviour.directions` reads the names."""


ModelDtype = Literal["float32", "bfloat16"]
DEVICE: Any = Field(
    default="auto",
    pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
    description="Where to compute: auto (a CUDA GPU if there is one), cpu, cuda, cuda:N or mps.",
)
MODEL_DTYPE: Any = Field(
    default="float32", description="Number format in which the models compute."
)


class Section(Bounded, frozen=True, extra="forbid"):
    """A group of settings that one stage or command reads."""


class PairSettings(Section, frozen=True):
    """Through which tokenizer and chat template both models read."""

    tokenizer: str | None = Field(
        default=None,
        description="Read with this tokenizer: base, tuned, or a folder or hub id (default: the "
        "base's, without tokens that the tuned model lacks).",
    )
    chat_template: str | None = Field(
        default=None,
        description="Write chats with this template: base, tuned or a file (default: the tuned "
        "model's if it has one).",
    )


class CollectSettings(Section, frozen=True):
    """What the models read, and which activations are stored."""

    layer: int | float = Field(
        default=0.5,
        description="Read the residual stream after this block: an index (13) or a fraction of "
        "the depth (0.5).",
    )
    layers: tuple[int | float | Literal["auto"], ...] = Field(
        default=(),
        description="Look for findings at these layers, such as 5,10,15, or auto to have a few "
        "chosen; dictionaries are of the first (default: --layer alone).",
    )
    context: int = Field(default=256, ge=2, description="Longest sequence, in tokens.")
    pack: bool = Field(default=False, description="Fill every sequence up to the context.")
    max_tokens: int | None = Field(
        default=None, ge=1, description="Read at most this many tokens of the data."
    )
    column: str | None = Field(
        default=None, description="Column or key that holds the text or chat (default: found)."
    )
    skip_bad: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Skip bad rows up to this share of a source; above it the first is an error.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Number format of the stored activations."
    )
    store: Literal["disk", "stream"] = Field(
        default="disk",
        description="Keep all activations on disk, or train while the models run and keep a "
        "sample (stream).",
    )
    sample_tokens: int = Field(
        default=2_000_000,
        ge=2,
        description="Tokens of the sample that a stream keeps on disk, in whole sequences.",
    )
    window: int = Field(
        default=262_144,
        ge=1,
        description="Tokens of a stream that are shuffled together in memory.",
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _divided(cls, given: Any) -> Any:
        """Read layers that commas divide, as the command line gives them."""
        if isinstance(given, str):
            given = [given]
        if not isinstance(given, list | tuple):
            return given
        parts = [each.split(",") if isinstance(each, str) else [each] for each in given]
        return tuple(each for some in parts for each in some)

    @model_validator(mode="after")
    def _one_way(self) -> "CollectSettings":
        if "auto" in self.layers and len(self.layers) > 1:
            raise ValueError("layers: auto chooses all of them: name it alone")
        if self.layers and self.layer != CollectSettings.model_fields["layer"].default:
            raise ValueError(
                "layers: name either layer or layers; the first of layers is that of dictionaries"
            )
        return self


class DictionarySettings(Section, frozen=True):
    """How one dictionary is trained; `dictionaries/config.py` fills in what is left open."""

    sparsity: str = Field(
        default="batchtopk",
        description="Rule that keeps few latents active; `anaglyph methods` lists them.",
    )
    latents: int = Field(default=4096, ge=1, description="Dictionary size, in latents.")
    k: int | float | Literal["auto"] | None = Field(
        default=None,
        description="Mean active latents per token, may be below 1; auto chooses it from the data "
        "(default: the method's own).",
    )
    mu: float | None = Field(
        default=None,
        ge=0,
        description="Weight of the sparsity penalty of l1 (default: from the width).",
    )
    anneal: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Fraction of the training (at most 0.5) during which k is annealed to its "
        "final value.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Option of the method, such as norm=unsquared."
    )
    tokens: int | None = Field(
        default=None,
        ge=1,
        description="Training tokens per dictionary, repeats counted (default: from the data).",
    )
    batch: int = Field(default=2048, ge=1, description="Training batch, in tokens.")
    lr: float | None = Field(
        default=None,
        gt=0,
        description="Peak learning rate of Adam (default: from the width and the run's length).",
    )

    @model_validator(mode="after")
    def _fits(self) -> "DictionarySettings":
        if isinstance(self.k, int | float):
            if not self.k > 0:
                raise ValueError(f"k: {self.k} must be a positive number")
            if self.k > self.latents:
                raise ValueError(f"k={self.k} exceeds latents={self.latents}")
        return self


class TrainSettings(DictionarySettings, frozen=True):
    """Which dictionaries are trained, and how each is."""

    methods: tuple[str, ...] = Field(
        default=DEFAULT_METHODS,
        min_length=1,
        description="Dictionary method to train; `anaglyph methods` lists them.",
    )


class CausalSettings(Section, frozen=True):
    """What is patched into the models, and where predictions are judged."""

    full: bool = Field(
        default=False,
        description="Patch also the subsets nu 0.1, 0.3, 0.6 and 1, 4, 16, 64 latents, all live"
        " latents together, 8 latents one at a time, and every control.",
    )
    nu: tuple[float, ...] = Field(
        default=(0.3,), description="Patch the latents whose nu is at most this."
    )
    counts: tuple[int, ...] = Field(
        default=(1, 16),
        description="Patch this many latents, those with the largest share of the difference.",
    )
    positions: tuple[Place, ...] = Field(
        default=("all", "assistant", "first nine"),
        min_length=1,
        description="Judge predictions at these tokens.",
    )
    edit_at: tuple[Place, ...] = Field(
        default=("template",),
        description="Also patch the whole difference at these tokens only.",
    )
    into: tuple[Literal["tuned", "base"], ...] = Field(
        default=("tuned",), min_length=1, description="Model that is patched."
    )
    biases: Literal["out", "in", "both"] = Field(
        default="out", description="Patch subsets without or with the dictionary's constant."
    )
    causal_tokens: int = Field(
        default=4096, ge=1, description="Held-out tokens to patch (whole sequences)."
    )
    single_latents: int = Field(
        default=3, ge=0, description="Latents that are also patched one at a time."
    )

    def widened(self) -> "CausalSettings":
        """Return the settings with ``full`` carried out; what was chosen otherwise stays.

        Example:
            >>> CausalSettings(full=True, nu=(0.2,)).widened().counts
            (1, 4, 16, 64)
        """
        if not self.full:
            return self
        wide = {"nu": (0.1, 0.3, 0.6), "counts": (1, 4, 16, 64), "single_latents": 8}
        fields = type(self).model_fields
        kept = {name for name in wide if getattr(self, name) != fields[name].default}
        return self.model_copy(update={name: wide[name] for name in wide if name not in kept})


class FindSettings(Section, frozen=True):
    """How findings are searched and tested."""

    rate: float = Field(
        default=0.1, gt=0, lt=1, description="Target false-discovery rate of the findings."
    )
    candidates: int = Field(
        default=8,
        ge=0,
        description="Findings that are put into the model to measure their KL: those of the "
        "largest estimate, and a quarter at random.",
    )
    find_tokens: int = Field(
        default=4096, ge=1, description="Held-out tokens on which that KL is measured."
    )
    trials: int = Field(
        default=72,
        ge=0,
        description="Test features planted to measure the detection limit; 0 skips it.",
    )
    replant_below: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Plant one more round if less than this share of the test features came back.",
    )
    most_findings: int = Field(default=30, ge=1, description="Findings to report at most.")


class BehaveSettings(Section, frozen=True):
    """How the models are asked, and how what they say is compared."""

    behaviour: bool = Field(
        default=True, description="Let both models answer prompts and compare what they say."
    )
    budget: int = Field(
        default=20_000,
        ge=200,
        description="Tokens to generate at most, all models together.",
    )
    reply_tokens: int = Field(default=28, ge=4, description="Longest reply, in tokens.")
    amplify_by: float = Field(
        default=2.0,
        ge=1,
        description="Scale of the weight change where behaviour is looked for; 1 does not amplify.",
    )
    most_claims: int = Field(default=12, ge=1, description="Candidate claims to verify.")


class ReportSettings(Section, frozen=True):
    """What the page shows."""

    shown_latents: int = Field(
        default=60, ge=0, description="Latents of each dictionary that get examples."
    )


class Settings(Section, frozen=True):
    """All settings of a run; the models, the data and the output folder are not among them."""

    pair: PairSettings = PairSettings()
    collect: CollectSettings = CollectSettings()
    train: TrainSettings = TrainSettings()
    causal: CausalSettings = CausalSettings()
    find: FindSettings = FindSettings()
    behave: BehaveSettings = BehaveSettings()
    report: ReportSettings = ReportSettings()
    seed: int = Field(default=0, ge=0, description="Seed of every random choice.")
    threads: int | None = Field(default=None, ge=1, description="Processor threads (default: all).")
    device: str = DEVICE
    model_dtype: ModelDtype = MODEL_DTYPE
    local_files_only: bool = Field(
        default=False, description="Take hub models from the local cache only."
    )
    convert: bool = Field(
        default=False,
        description="Convert pickled weights (.bin) once to safetensors, running nothing in them.",
    )

    def changed(self, **changes: Any) -> "Settings":
        """Return these settings with some replaced, by the names of their fields.

        Raises:
            InputError: A field is unknown or has a bad value.

        Example:
            >>> Settings().changed(latents=64, seed=1).train.latents
            64
        """
        return _settings([self.model_dump(), changes], "")


OF_A_RUN = (
    PairSettings,
    CollectSettings,
    BehaveSettings,
    TrainSettings,
    CausalSettings,
    FindSettings,
    ReportSettings,
    Settings,
)
"""What a whole run is set by, in the order in which `--help` shows it."""


class GameSettings(Section, frozen=True):
    """The diffing game: what is the same for all players."""

    layer: int | float = Field(
        default=0.5,
        description="Read the residual stream after this block: an index or a fraction of the "
        "depth.",
    )
    latents: int = Field(
        default=2048, ge=1, description="Dictionary size of every dictionary method, in latents."
    )
    tokens: int = Field(
        default=120_000, ge=1, description="Training tokens of each dictionary, repeats counted."
    )
    prose: str | None = Field(default="builtin:demo", description="Text read besides the chats.")
    prose_tokens: int = Field(default=3000, ge=1, description="How much of it, in tokens.")
    context: int = Field(default=256, ge=2, description="Longest sequence, in tokens.")
    causal_tokens: int = Field(
        default=512, ge=1, description="Held-out tokens on which KL is measured."
    )
    rate: float = Field(
        default=0.1, gt=0, lt=1, description="Target false-discovery rate of the findings."
    )
    samples: int = Field(
        default=30, ge=1, description="Prompts that the black box answers with both models."
    )
    new_tokens: int = Field(default=20, ge=1, description="Longest reply, in tokens.")
    checked: int = Field(
        default=6,
        ge=1,
        description="Probes of the causal check; half as many neutral prompts are used.",
    )
    span: int = Field(
        default=5, ge=1, description="First directions of a player that are tested together."
    )
    device: str = DEVICE
    model_dtype: ModelDtype = MODEL_DTYPE


class TokensSettings(Section, frozen=True):
    """The command `tokens`."""

    top: int = Field(default=10, ge=1, description="Tokens listed for each group.")


class LensSettings(Section, frozen=True):
    """The command `lens`."""

    positions: int = Field(default=5, ge=2, description="First positions of each text to read.")
    texts: int = Field(default=256, ge=2, description="Texts to average over, at most.")
    top: int = Field(default=10, ge=1, description="Tokens listed for each reading.")
    strengths: tuple[float, ...] = Field(
        default=(0.5, 1.0, 2.0),
        min_length=1,
        description="Length of the shift that is added, in mean activation norms.",
    )
    new_tokens: int = Field(default=30, ge=1, description="Longest reply, in tokens.")

    @model_validator(mode="after")
    def _positive(self) -> "LensSettings":
        if any(not strength > 0 for strength in self.strengths):
            raise ValueError(f"strengths: {list(self.strengths)} must all be above 0")
        return self


class PcaSettings(Section, frozen=True):
    """The command `pca`."""

    components: int = Field(default=16, ge=1, description="Principal components to keep.")
    least: int = Field(
        default=5, ge=1, description="Leave out tokens that come up less often in their role."
    )


class WeightsSettings(Section, frozen=True):
    """The command `weights`."""

    rank: int = Field(default=8, ge=1, description="Singular directions to keep of each matrix.")
    top: int = Field(default=6, ge=1, description="Tokens shown at each end of a direction.")
    parts: int = Field(
        default=0,
        ge=0,
        description="Rank-one parts to score by the KL they account for; needs --data.",
    )
    orders: int = Field(default=4, ge=1, description="Random orders of removal (Shapley values).")
    greedy: int = Field(default=4, ge=0, description="Parts to remove greedily.")


class WatchSettings(Section, frozen=True):
    """The command `watch`."""

    directions: int = Field(
        default=200, ge=1, description="Directions of the weight change to watch, largest first."
    )
    false_alarms: float = Field(
        default=0.01, gt=0, lt=1, description="Share of generic prompts that may raise an alarm."
    )


class StitchSettings(Section, frozen=True):
    """The command `stitch`."""

    steps: int | None = Field(
        default=None, ge=2, description="Depths to visit, evenly spread (default: all)."
    )
    new_tokens: int = Field(default=30, ge=1, description="Longest reply, in tokens.")


class AmplifySettings(Section, frozen=True):
    """The command `amplify`."""

    alpha: tuple[float, ...] | None = Field(
        default=None,
        min_length=1,
        description="Scale of the change: 0 base, 1 tuned, above 1 amplified, below 0 reversed "
        "(default: 0, 1 and 2).",
    )
    kind: Literal["weights", "logits"] = Field(default="weights", description="What is scaled.")
    block: int | None = Field(
        default=None, ge=0, description="Scale only this block's change; the rest stays tuned."
    )
    search: int = Field(
        default=0, ge=0, description="Answer only the N prompts whose replies change most."
    )
    depth: int = Field(
        default=1, ge=1, description="Rank prompts by this many first tokens of the reply."
    )
    new_tokens: int = Field(default=40, ge=1, description="Longest reply, in tokens.")
    temperature: float = Field(
        default=0.0, ge=0, description="Sampling temperature; 0 takes the likeliest token."
    )


class AttributeSettings(Section, frozen=True):
    """The command `attribute`."""

    top_tokens: int = Field(default=20, ge=1, description="Tokens of highest KL to look at.")
    top: int = Field(default=5, ge=1, description="Latents to name for each token.")
    per_sequence: int = Field(default=3, ge=1, description="Tokens of one sequence, at most.")


class SteerSettings(Section, frozen=True):
    """The command `steer`."""

    strength: tuple[float, ...] = Field(
        default=(1.0,),
        min_length=1,
        description="How much of the direction to add; a latent's unit is its maximum activation.",
    )
    into: Literal["base", "tuned"] = Field(default="base", description="Model that is steered.")
    at: str = Field(
        default="all", description="Where: all, prompt, reply, or positions such as 0,5,6."
    )
    new_tokens: int = Field(default=60, ge=1, description="Longest reply, in tokens.")
    temperature: float = Field(
        default=0.0, ge=0, description="Sampling temperature; 0 takes the likeliest token."
    )


class ScreenSettings(Section, frozen=True):
    """The command `screen`."""

    top: int = Field(default=10, ge=1, description="Latents to steer.")
    strength: float = Field(
        default=1.0, gt=0, description="How hard, in units of the maximum activation."
    )
    new_tokens: int = Field(default=60, ge=1, description="Longest reply, in tokens.")


class SubmitSettings(Section, frozen=True):
    """The command `submit`: what each job gets."""

    gpus: int = Field(
        default=0, ge=0, description="GPUs of each job; above 1, torchrun starts one process each."
    )
    cpus: int | None = Field(
        default=None, ge=1, description="Processor cores of each job (default: the cluster's)."
    )
    memory: float | None = Field(
        default=None, gt=0, description="Memory of each job, in GB (default: the cluster's)."
    )
    hours: float = Field(default=24.0, gt=0, description="Longest time of each job, in hours.")
    at_once: int | None = Field(
        default=None,
        ge=1,
        description="Jobs that may run at the same time (default: 256, or 1 with --local).",
    )
    requeues: int = Field(
        default=10, ge=0, description="How often a job whose time is over is queued again."
    )
    slurm: dict[str, Any] = Field(
        default_factory=dict, description="Further parameter of sbatch, such as partition=gpu."
    )


def sections() -> dict[str, type[Section]]:
    """Return the sections of `Settings` by name, in the order of the data."""
    return {
        name: kind
        for name, field in Settings.model_fields.items()
        if isinstance(kind := field.annotation, type) and issubclass(kind, Section)
    }


def load_settings(file: Path | None = None, **overrides: Any) -> Settings:
    """Read settings from a JSON or TOML file, then let the overrides win.

    Args:
        file: A `.json` or `.toml` file of settings, flat or by section.
        **overrides: Fields by name, as given on the command line; None leaves a field as it is.

    Raises:
        InputError: The file cannot be read, or a field is unknown or has a bad value.

    Example:
        >>> load_settings(latents=64).train.latents
        64
    """
    from_file = read_settings(file) if file is not None else {}
    given = {name: value for name, value in overrides.items() if value is not None}
    if from_file:
        _settings([from_file], str(file))  # a mistake in the file is named as the file's
    return _settings([from_file, given], "")


def section_of(kind: type[Section], given: dict[str, Any]) -> Any:
    """Return a command's own settings from the options that were given.

    Raises:
        InputError: A field is unknown or has a bad value.
    """
    return validate(kind, given)


def _settings(layers: list[dict[str, Any]], where: str) -> Settings:
    nested: dict[str, Any] = {}
    known = {name: section for section, kind in sections().items() for name in kind.model_fields}
    for layer in layers:
        for name, value in layer.items():
            if name in sections():
                if not isinstance(value, dict):
                    raise InputError(f"{where or name}: {name} must be an object of settings")
                nested.setdefault(name, {}).update(value)
            elif name in known:
                nested.setdefault(known[name], {})[name] = value
            else:
                nested[name] = value
    try:
        return Settings.model_validate(nested)
    except ValidationError as error:
        said = first_problem(error)
        for section in sections():
            said = said.removeprefix(f"{section}.").removeprefix(f"{section}: ")
        raise InputError(f"{where}: {said}" if where else said) from error
