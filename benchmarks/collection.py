"""How fast activations are collected, against plain forwards of the same model.

SmolLM2-135M-Instruct reads the demo's chats. In each round: a full forward with logits, a bare
forward through the first blocks only (no hooks, no store), our collecting of one model (``collect``
of the model with itself, which runs it once and writes both sides), and our collecting of an
adapter pair whose first adapted block comes late. All but the plain full forward, which is given
batches of eight chats as they come, read the same batches of like length.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

from bench import Watch, arguments, quiet_rounds, ratios, save, shown, spread

LAYER, FIRST_ADAPTED = 15, 10
TOKENS = 8192


def main() -> None:
    """Play the rounds."""
    args = arguments(__doc__ or "")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    import anaglyph as ag
    from anaglyph.core.devices import TOKEN_BUDGETS
    from anaglyph.core.threads import set_threads
    from anaglyph.corpus import load_corpus, padded_batches
    from anaglyph.demo import ASSETS, demo_pair
    from anaglyph.pair.quiet import quiet

    set_threads(args.threads)
    base = demo_pair().base
    alone = ag.ModelPair.load(base, base, device=args.device)
    scratch = Path(tempfile.mkdtemp())
    with alone.side("base") as model:
        folder = Path(model.name_or_path)
    config = LoraConfig(
        r=8,
        target_modules=["q_proj", "v_proj"],  # what PEFT adapts in this family by default
        layers_to_transform=list(range(FIRST_ADAPTED, alone.n_layers)),
    )
    with quiet():
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        adapted.save_pretrained(str(scratch / "adapter"))
    pair = ag.ModelPair.load(base, scratch / "adapter", device=args.device)
    corpus = load_corpus(ASSETS / "demo-chats.jsonl", alone.tokenizer, max_tokens=TOKENS)
    everything = torch.arange(corpus.n_sequences).numpy()
    like = [rows[1:] for rows in padded_batches(corpus, everything, TOKEN_BUDGETS[args.device])]
    lengths = corpus.lengths

    def pad(chosen) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.zeros(len(chosen), int(lengths[chosen].max()), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(chosen):
            ids[row, : lengths[index]] = torch.from_numpy(corpus.sequence(int(index))[0])
            mask[row, : lengths[index]] = 1
        return ids, mask

    eights = [pad(everything[i : i + 8]) for i in range(0, len(everything), 8)]
    with alone.side("base") as model:
        whole = model
    decoder = whole.get_decoder()
    blocks, inner = decoder.layers, decoder.norm

    def full() -> None:
        with torch.no_grad():
            for ids, mask in eights:
                whole(input_ids=ids.to(args.device), attention_mask=mask.to(args.device))

    def bare() -> None:
        decoder.layers, decoder.norm = blocks[: LAYER + 1], torch.nn.Identity()
        try:
            with torch.no_grad():
                for ids, mask in like:
                    decoder(
                        input_ids=ids.to(args.device),
                        attention_mask=mask.to(args.device),
                        use_cache=False,
                    )
        finally:
            decoder.layers, decoder.norm = blocks, inner

    def collect(which: ag.ModelPair) -> None:
        ag.collect(which, corpus, [LAYER], scratch / "store")

    def seconds(work, *arguments) -> float:
        shutil.rmtree(scratch / "store", ignore_errors=True)
        start = time.perf_counter()
        work(*arguments)
        return time.perf_counter() - start

    def play() -> tuple[dict[str, float], float]:
        watch = Watch(os.getpid())
        said = {
            "full forward with logits": seconds(full),
            "bare forward to the layer": seconds(bare),
            "collect, one model": seconds(collect, alone),
            "collect, adapter pair": seconds(collect, pair),
        }
        return said, watch.others()

    bare()
    rounds, quietness = quiet_rounds(play, args)
    shutil.rmtree(scratch)
    by = {name: [said[name] for said in rounds] for name in rounds[0]}
    forward, one = by["bare forward to the layer"], by["collect, one model"]
    # Blocks that have to run for both models, in forwards of one model to the layer.
    depth = LAYER + 1
    least = (FIRST_ADAPTED + 2 * (depth - FIRST_ADAPTED)) / depth
    used = ratios(by["collect, adapter pair"], forward)
    result = {
        "spec": {
            "model": "SmolLM2-135M-Instruct",
            "layer": LAYER,
            "blocks": alone.n_layers,
            "tokens": corpus.n_tokens,
            "first_adapted": FIRST_ADAPTED,
        },
        **quietness,
        "tokens_per_second": {
            name: spread([corpus.n_tokens / value for value in values])
            for name, values in by.items()
        },
        "collect_share_of_bare": ratios(forward, one),
        "collect_over_full_forward": ratios(by["full forward with logits"], one),
        "adapter_pair_forwards": used,
        "adapter_pair_least_forwards": least,
        "adapter_pair_over_least": {key: value / least for key, value in used.items()},
    }
    path = save(f"collection-{args.threads}-threads", args, result)
    for name, found in result["tokens_per_second"].items():
        print(f"{name}: {shown(found, 0)} tokens/s")
    print(f"collecting reaches {shown(result['collect_share_of_bare'])} of the bare forward")
    print(f"and {shown(result['collect_over_full_forward'])} times the full forward with logits")
    print(f"adapter pair: {shown(used)} forwards of one model to the layer, {least:.2f} at least")
    print(f"other processes took {shown(result['others_cpu'])} cores; written to {path}")


if __name__ == "__main__":
    main()
