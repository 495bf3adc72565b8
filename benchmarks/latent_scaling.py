"""Latent Scaling of all latents, all targets and both models at once, against the dense forms.

A random crosscoder of 2 x 576 and 8192 latents on random activations. In each round the same tokens
are encoded; our sums over the sparse codes are timed from the codes on (reconstruction included),
as are the same sums by dense products, the whole batch streamed: two to rebuild, four for errors
and reconstructions of both models. The per-latent form, which builds [latents, tokens, d], is timed
on a few latents and scaled to all.
"""

import os
import time

from bench import Watch, arguments, quiet_rounds, ratios, save, shown, spread

LATENTS, D, K = 8192, 576, 32
TOKENS = 8192
FEW, FEW_TOKENS = 16, 1024


def main() -> None:
    """Play the rounds."""
    args = arguments(__doc__ or "")
    import numpy as np
    import torch

    from anaglyph.core.threads import set_threads
    from anaglyph.dictionaries import Dictionary, Selection, Weights, get_method
    from anaglyph.latents.scaling import SIDES, LatentSums, Regressors

    set_threads(args.threads)
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    encoder = tuple(draw(LATENTS, D) / D**0.5 for _ in SIDES)
    decoder = tuple(draw(LATENTS, D) / D**0.5 for _ in SIDES)
    weights = Weights(encoder, torch.zeros(LATENTS), decoder, (torch.zeros(D),) * 2)
    base = draw(TOKENS, D)
    tuned = base + 0.3 * draw(TOKENS, D)
    # The threshold that keeps K of these tokens' latents: a few of them tell it.
    pre = base[:512] @ encoder[0].T + tuned[:512] @ encoder[1].T
    scores = pre * sum(matrix.norm(dim=1) for matrix in decoder)
    threshold = float(scores.flatten().topk(K * 512).values.min())
    dic = Dictionary(get_method("crosscoder"), weights, Selection(k=K, threshold=threshold))
    centres = dict.fromkeys(SIDES, np.zeros(D, np.float32))
    regressors = Regressors(
        decoder[1].numpy(), centres, dict(zip(SIDES, (m.numpy() for m in decoder), strict=True))
    )
    sums = LatentSums(regressors, 256)
    blocks, roles = np.arange(TOKENS) // 32, np.zeros(TOKENS, np.uint8)
    sides = {"base": base, "tuned": tuned}
    arrays = {side: values.numpy() for side, values in sides.items()}

    def sparse(codes) -> None:
        rebuilt = dic.reconstruct(codes)
        parts = dict(zip(SIDES, (part.numpy() for part in rebuilt), strict=True))
        sums.add(codes, arrays, parts, blocks, roles)

    def dense(codes: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for values, matrix in zip(sides.values(), decoder, strict=True):
            rebuilt = codes @ matrix
            both = (values - rebuilt, rebuilt)
            found += [((codes.T @ target) * decoder[1]).sum(1) for target in both]
        return found

    def one_by_one(codes: torch.Tensor, rebuilds: list[torch.Tensor]) -> None:
        few = codes[:FEW_TOKENS, :FEW].T
        for values, rebuilt in zip(sides.values(), rebuilds, strict=True):
            for target in (values[:FEW_TOKENS] - rebuilt, rebuilt, values[:FEW_TOKENS]):
                fitted = few[:, :, None] * decoder[1][:FEW, None, :]
                (fitted * target).sum((1, 2)) / fitted.square().sum((1, 2))

    def seconds(work, *arguments) -> tuple[float, object]:
        start = time.perf_counter()
        found = work(*arguments)
        return time.perf_counter() - start, found

    def play() -> tuple[dict[str, float], float]:
        watch = Watch(os.getpid())
        said = {}
        said["encode"], codes = seconds(dic.encode, base, tuned)
        said["sparse"], _ = seconds(sparse, codes)
        full = torch.from_numpy(codes.dense(LATENTS))
        said["dense"], _ = seconds(dense, full)
        # Rebuilding is the same for few latents as for all, so it is left out.
        few, _ = seconds(one_by_one, full, [full[:FEW_TOKENS] @ matrix for matrix in decoder])
        said["one by one"] = few * (LATENTS / FEW) * (TOKENS / FEW_TOKENS)
        said["active"] = len(codes.values) / TOKENS
        return said, watch.others()

    play()
    rounds, quietness = quiet_rounds(play, args)
    growth = {"tokens": {}, "k": {}}
    codes = dic.encode(base, tuned)
    for share in (1, 2, 4):
        count = TOKENS // share
        part = type(codes)(
            codes.indices[: codes.offsets[count]],
            codes.values[: codes.offsets[count]],
            codes.offsets[: count + 1],
        )
        growth["tokens"][str(count)] = min(
            seconds(lambda part=part, n=count: _add(dic, sums, part, arrays, blocks, roles, n))[0]
            for _ in range(5)
        )
        fewer = codes.only(np.arange(LATENTS) % share == 0)
        growth["k"][f"{len(fewer.values) / TOKENS:.1f}"] = min(
            seconds(lambda c=fewer: _add(dic, sums, c, arrays, blocks, roles, TOKENS))[0]
            for _ in range(5)
        )
    slopes = {
        name: float(np.polyfit(np.log([float(x) for x in at]), np.log(list(at.values())), 1)[0])
        for name, at in growth.items()
    }
    by = {name: [said[name] for said in rounds] for name in rounds[0]}
    both = [a + b for a, b in zip(by["encode"], by["sparse"], strict=True)]
    result = {
        "spec": {"latents": LATENTS, "d": D, "sources": 2, "tokens": TOKENS, "k": by["active"][0]},
        **quietness,
        "milliseconds": {
            name: spread([1000 * v for v in values])
            for name, values in by.items()
            if name != "active"
        },
        "seconds_for_200k_tokens": spread([v * 200_000 / TOKENS for v in by["sparse"]]),
        "dense_over_ours": ratios(by["dense"], by["sparse"]),
        "one_by_one_over_ours": ratios(by["one by one"], by["sparse"]),
        "one_by_one_timed_on": {"latents": FEW, "tokens": FEW_TOKENS},
        "encode_and_scale_over_encode": ratios(both, by["encode"]),
        "growth_seconds": growth,
        "growth_slopes": slopes,
    }
    path = save(f"latent-scaling-{args.threads}-threads", args, result)
    print(f"{TOKENS} tokens, {by['active'][0]:.1f} active of {LATENTS} latents, 2 x {D}")
    print(f"ours, from the codes on: {shown(result['milliseconds']['sparse'], 0)} ms")
    print(f"dense products over ours: {shown(result['dense_over_ours'], 1)}")
    print(f"latent by latent over ours (scaled): {shown(result['one_by_one_over_ours'], 0)}")
    print(f"encoding and scaling over encoding: {shown(result['encode_and_scale_over_encode'])}")
    print(f"log-log slopes: {slopes}")
    print(f"other processes took {shown(result['others_cpu'])} cores; written to {path}")


def _add(dic, sums, codes, arrays, blocks, roles, tokens: int) -> None:
    rebuilt = dict(zip(arrays, (part.numpy() for part in dic.reconstruct(codes)), strict=True))
    part = {side: values[:tokens] for side, values in arrays.items()}
    sums.add(codes, part, rebuilt, blocks[:tokens], roles[:tokens])


if __name__ == "__main__":
    main()
