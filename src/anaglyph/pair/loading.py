"""From files to models in memory: whole models, and PEFT adapters laid over a base.

Loaders of other packages warn where we must not go on: weights that a checkpoint lacks and that
would stay random, an adapter that fits only half of the base. Here these are errors.
"""

import copy
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from anaglyph.core.errors import AnaglyphError, ModelError
from anaglyph.core.files import temporary_folder
from anaglyph.pair.merging import AdaptedModule, adapted_modules
from anaglyph.pair.numbers import check_adapter, check_model_numbers, check_model_size
from anaglyph.pair.quantised import Quantisation, quantisation_settings
from anaglyph.pair.quiet import first_line, loading, quiet
from anaglyph.pair.sources import Source
from anaglyph.pair.weight_files import ADAPTER_CONFIG, not_finite, read_config

# The matrices in an adapter's file that have a row for each token.
_EMBEDDING_OF_ADAPTER = re.compile(
    r"(embed_tokens|wte|embed_in|word_embeddings|lm_head|embed_out)"
    r"(\.(base_layer\.|modules_to_save\.)?weight|\.lora_embedding_A)$"
)

_NO_SETTINGS = ("transformers_version", "_name_or_path")


def load_config(source: Source) -> Any:
    """Return the configuration of a whole model.

    Raises:
        ModelError: It cannot be read, its architecture is unknown, or it asks for more than the
            files hold.
    """
    check_model_numbers(source)
    with loading(f"cannot load {source.name}"):
        return AutoConfig.from_pretrained(source.folder, trust_remote_code=False)


def shape_notes(base: Source, tuned: Source) -> list[str]:
    """Return in what the shapes of two whole models differ: a line each, none if they agree."""
    configs = [load_config(source).get_text_config() for source in (base, tuned)]
    notes = []
    for field, word in (
        ("num_hidden_layers", "layers"),
        ("hidden_size", "hidden width"),
    ):
        ours, theirs = (getattr(config, field) for config in configs)
        if ours != theirs:
            notes.append(
                f"the models differ in {word}: {ours} in {base.name}, {theirs} in {tuned.name}"
            )
    return notes


def vocabulary_rows(base: Source, tuned: Source) -> tuple[int, int]:
    """Return the number of rows that both models' embeddings have.

    An adapter may carry longer embeddings than its base has.
    """
    rows = int(load_config(base).get_text_config().vocab_size)
    if tuned.is_adapter:
        return rows, max([rows, *_saved_rows(tuned)])
    return rows, int(load_config(tuned).get_text_config().vocab_size)


def _saved_rows(adapter: Source) -> Iterator[int]:
    for file in adapter.weights.files:
        with safe_open(file, framework="pt") as opened:
            tensors: Any = opened
            for name in tensors.keys():  # noqa: SIM118 - an open file, not a mapping
                if _EMBEDDING_OF_ADAPTER.search(name):
                    shape = tensors.get_slice(name).get_shape()
                    yield shape[1] if name.endswith("lora_embedding_A") else shape[0]


def same_tensors(base: Source, tuned: Source) -> bool:
    """Say whether two whole models are one, though their files differ: saved in shards, say."""
    settings = [
        {k: v for k, v in read_config(source.weights.config).items() if k not in _NO_SETTINGS}
        for source in (base, tuned)
    ]
    if settings[0] != settings[1]:
        return False
    with ExitStack() as stack:
        opened: list[dict[str, Any]] = []
        for source in (base, tuned):
            handles: dict[str, Any] = {}
            for file in source.weights.files:
                handle: Any = stack.enter_context(safe_open(file, framework="pt"))
                handles |= dict.fromkeys(handle.keys(), handle)
            opened.append(handles)
        own, theirs = opened
        return own.keys() == theirs.keys() and all(
            torch.equal(own[name].get_tensor(name), theirs[name].get_tensor(name)) for name in own
        )


def load_model(source: Source, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Load a whole causal language model.

    Raises:
        ModelError: It cannot be loaded, or its files lack some of its weights.
    """
    config = load_config(source)
    method = _dequantised(config, source)
    # Fused attention cannot cap its scores; where a model caps them only the plain kernel is exact.
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    with loading(f"cannot load {source.name}"), _without_stale_adapter(source) as folder:
        with torch.device("meta"):
            planned = AutoModelForCausalLM.from_config(
                copy.deepcopy(config), trust_remote_code=False
            )
        check_model_size(planned, source)
        del planned
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation="eager" if capped else None,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model, report = loaded
        if method == "bitsandbytes":
            model = model.dequantize()
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(
            f"{source.name} lacks {len(missing)} of its model's weights, the first is {missing[0]}"
        )
    if method is not None:
        # Some of these loaders keep the stored precision, whatever was asked for.
        model = model.to(dtype)
    _check_finite(model, source)
    return model.to(device)


def _dequantised(config: Any, source: Source) -> str | None:
    """Ask for a quantised model in float, and return the method; None for plain weights.

    Kernels for quantised weights round the activations as well, which would be a difference of
    its own; and edits, adapters and gradients need the weights themselves.

    Raises:
        ModelError: The model is quantised by a method that cannot be undone.
    """
    settings = quantisation_settings(config.to_dict())
    if settings is None:
        return None
    found = Quantisation.of({"quantization_config": settings}, source.name)
    if found is not None and found.method != "bitsandbytes":
        config.quantization_config = {**settings, "dequantize": True}
    return None if found is None else found.method


@contextmanager
def _without_stale_adapter(source: Source) -> Iterator[Path]:
    """Give the folder of a whole model, without an adapter's configuration that is left in it.

    Transformers would lay that adapter over the model.
    """
    if not (source.folder / ADAPTER_CONFIG).is_file():
        yield source.folder
        return
    with temporary_folder() as place:
        for file in source.folder.iterdir():
            if not file.name.startswith("adapter_"):
                (Path(place) / file.name).symlink_to(file.absolute())
        yield Path(place)


def _check_finite(model: PreTrainedModel, source: Source) -> None:
    for name, parameter in model.named_parameters():
        # A sum is NaN or infinite if a value is, and needs no memory; it may overflow as well.
        if not parameter.sum().isfinite() and not (finite := parameter.isfinite()).all():
            raise not_finite(source.name, name, int((~finite).sum()), parameter.numel())


class Adapter:
    """A PEFT adapter inside a base model, which stays one copy in memory; off until switched on.

    Attributes:
        on: Whether it acts.
        rewrites_base: Whether it starts from the base's weights and takes its own start off them
            (PiSSA, OLoRA and the like); the base under it is then not the base.
        trains_biases: Whether biases of the base are replaced.
    """

    def __init__(self, model: PreTrainedModel, base: Source, source: Source) -> None:
        """Put the adapter's modules into ``model`` and load their weights.

        Raises:
            ModelError: The adapter cannot be read, does not fit this base, or is of a kind that
                does more than add to the model's own layers.
        """
        from peft import PeftConfig, PeftModel  # a slow import that most runs do without
        from peft.tuners.tuners_utils import BaseTuner

        check_adapter(source)
        try:
            with quiet():
                config = PeftConfig.from_pretrained(str(source.folder))
                if config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None):
                    raise ModelError(
                        f"{source.name} is an adapter of kind {_kind(config)}, which acts on the"
                        " prompt and cannot be compared layer by layer"
                    )
                config.inference_mode = True
                # Some kinds repeat a randomised decomposition of the base at every load.
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    wrapper = PeftModel(model, config)
                    result = wrapper.load_adapter(str(source.folder), "default", torch_device="cpu")
        except AnaglyphError:
            raise
        except Exception as error:  # strangers' files make peft raise anything
            raise ModelError(
                f"adapter {source.name} does not fit {base.name}: {_reason(error)}"
            ) from error
        # Where embeddings grew, peft stores each saved module three times over.
        again = (".modules_to_save.weight", ".original_module.weight")
        unexpected = [name for name in result.unexpected_keys if not name.endswith(again)]
        wrong = [*_not_shared(wrapper, result.missing_keys), *unexpected]
        if wrong:
            raise ModelError(
                f"adapter {source.name} does not fit {base.name}: {len(wrong)} weights do not"
                f" match, the first is {wrong[0].removeprefix('base_model.model.')}"
            )
        if not isinstance(wrapper.base_model, BaseTuner):
            raise ModelError(
                f"{source.name} is an adapter of kind {_kind(config)}, which is not supported"
            )
        self._tuner = wrapper.base_model
        start = getattr(config, "init_lora_weights", None)
        self.rewrites_base = isinstance(start, str) and start not in ("gaussian", "eva")
        self.trains_biases = getattr(config, "bias", "none") != "none"
        self.on = True
        self.switch(False)
        self._lend_rows(base)

    def switch(self, on: bool) -> None:
        """Let the adapter act, or not."""
        if on == self.on:
            return
        with quiet():  # PEFT warns that biases stay changed; the pair checks for that itself
            if on:
                self._tuner.enable_adapter_layers()
                self._tuner.requires_grad_(False)  # PEFT takes switching on for training
            else:
                self._tuner.disable_adapter_layers()
        self.on = on

    def _lend_rows(self, base: Source) -> None:
        """Give the base the adapter's rows of the tokens that it lacks."""
        rows = int(load_config(base).get_text_config().vocab_size)
        for module in self.modules():
            saved, original = getattr(module.wrapper, "modules_to_save", {}), module.original
            weight: Any = getattr(original, "weight", None)
            if "default" in saved and weight is not None and len(weight) > rows:
                new: Any = saved["default"]
                weight.data[rows:] = new.weight.data[rows:]

    def modules(self) -> list[AdaptedModule]:
        """Return the modules that the adapter changes."""
        return list(adapted_modules(self._tuner.model))

    def merged(self) -> PreTrainedModel:
        """Merge the adapter into the model, which becomes the tuned one for good.

        Raises:
            ModelError: The adapter is of a kind that peft cannot merge.
        """
        self.switch(True)
        with loading("peft cannot merge the adapter"):
            tuner: Any = self._tuner
            return tuner.merge_and_unload().requires_grad_(False)

    def first_block(self, blocks: list[nn.Module]) -> int:
        """Return the first decoder block whose output can differ, the depth if only the head does.

        Anything adapted outside the blocks, save the output embedding, comes before them.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        place = {id(m): i for i, block in enumerate(blocks) for m in block.modules()}
        head = self._tuner.model.get_output_embeddings()
        place |= {id(module): len(blocks) for module in head.modules()}
        touched = [m for m in self._tuner.model.modules() if isinstance(m, kinds)]
        return min((place.get(id(module), 0) for module in touched), default=len(blocks))


def _not_shared(wrapper: Any, missing: list[str]) -> list[str]:
    """Return the missing weights that are not one with a weight that is there."""
    tensors = wrapper.state_dict()
    there = {t.data_ptr() for name, t in tensors.items() if name not in missing and t.numel()}
    return [n for n in missing if n not in tensors or tensors[n].data_ptr() not in there]


def _kind(config: Any) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type))


def _reason(error: BaseException) -> str:
    """Return the telling line: the first size mismatch if there is one, else the first line."""
    mismatch = re.search(r"size mismatch for [^\n]*", str(error))
    return mismatch.group().rstrip(".") if mismatch else first_line(error)
