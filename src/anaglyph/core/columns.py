"""What the parquet files of a run folder hold: every column with its unit and meaning.

`docs/run-folder.md` is made from this; a test compares it with the tables of a finished run. A
column NAME may come with NAME_low and NAME_high, the ends of its 95% interval over sequences:
these are listed as `BOUNDED` and not repeated. Undefined values are null, never NaN or infinite.
"""

LATENTS = {
    "latent": "Index of the latent in its dictionary.",
    "alive": "Whether it fired at least once on the stored tokens.",
    "active_tokens": "Tokens at which it fired.",
    "frequency": "Share of all tokens at which it fired, 0 to 1.",
    "mean_activation": "Mean code over the tokens at which it fired, in units of the activations.",
    "max_activation": "Largest code, in units of the activations.",
    "norm_base": "Norm of its decoder row in the base model; null without one.",
    "norm_tuned": "Norm of its decoder row in the tuned model; null without one.",
    "delta_norm": "Decoder norm difference, 0 (base only) to 1 (tuned only); maths section 2.",
    "class": "Norm class: tuned-only, base-only, shared or other; null without two decoders.",
    "cosine": "Cosine between its two decoder rows, -1 to 1.",
    "angle": "Angle between the two models' refitted directions, degrees, corrected for noise.",
    "beta_error_base": "Latent Scaling of the base's error, maths section 3; crosscoders only.",
    "beta_error_tuned": "Latent Scaling of the tuned model's error; crosscoders only.",
    "beta_recon_base": "Latent Scaling of the base's reconstruction; crosscoders only.",
    "beta_recon_tuned": "Latent Scaling of the tuned model's reconstruction; crosscoders only.",
    "beta_act_base": "Latent Scaling of the base's activation.",
    "beta_act_tuned": "Latent Scaling of the tuned model's activation.",
    "nu_error": "beta_error_base / beta_error_tuned: near 0 the tuned model's own, near 1 shared.",
    "nu_recon": "beta_recon_base / beta_recon_tuned.",
    "nu_act": "beta_act_base / beta_act_tuned.",
    "nu_error_mirror": "beta_error_tuned / beta_error_base, base decoder; base-only latents alone.",
    "nu_recon_mirror": "The same from the reconstruction.",
    "complete_shrinkage": "Whether a shared concept shows as one model's own because L1 shrank it.",
    "latent_decoupling": "Whether a shared concept is stored as two latents, one for each model.",
    "difference_share": "Share of the squared difference of the activations that it contributes.",
    "twin": "Latent of the opposite class that points the same way (cosine above 0.9).",
    "twin_cosine": "Cosine with that latent.",
    "twin_divergence": "Share of the pair's strong firings at which the other is weak, 0 to 1.",
    "template_share": "Share of its active tokens that belong to the template, bos included.",
    "share_ROLE": "Share of its active tokens that have the role, one column a role.",
}
CAUSAL = {
    "intervention": "Name of the edit; `formula` says what it is.",
    "dictionary": "Method of the dictionary; null where it plays no part.",
    "n_latents": "Latents that take part; null where latents are not what is added.",
    "kl": "Mean KL of the unpatched to the patched model's predictions, nats a token.",
    "recovered": "1 - kl / kl of the row `none`; null where there is no gap beyond rounding.",
    "tokens": "Tokens whose predictions are judged.",
    "sequences": "Sequences that have such tokens.",
    "formula": "The edited activation, maths section 4.",
    "layer": "Layer at whose output it is put in.",
    "into": "Model that is patched, tuned or base.",
    "positions": "Where predictions are judged: all, assistant, first nine, template.",
    "edited_at": "Where the edit is put in; the other model's activation elsewhere.",
    "l0": "Mean active latents a token among those that take part.",
    "push": "Root mean square length of what is added, in units of the activations.",
    "kl_other": "Mean KL of the other model's predictions to the patched one's, nats a token.",
    "nll": "Mean surprise of the text itself, nats a token.",
    "top1": "Share of tokens whose likeliest next token is the unpatched model's, 0 to 1.",
}
TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "latents/NAME.parquet": ("One row a latent of the dictionary NAME.", LATENTS),
    "causal/NAME.parquet": (
        "One row an intervention, at the first of the positions and into the first model.",
        CAUSAL,
    ),
    "causal/NAME.places.parquet": (
        "The same at all other positions, and into the other model where that was asked for.",
        CAUSAL,
    ),
    "causal/NAME.latents.parquet": (
        "One row for each of the strongest latents, patched in alone.",
        {
            "latent": "Index of the latent in its dictionary.",
            **CAUSAL,
            "closed": "kl of the row `none` minus kl, nats a token.",
        },
    ),
}
BOUNDED = {
    *(f"nu_{target}" for target in ("error", "recon", "act", "error_mirror", "recon_mirror")),
    *(
        f"beta_{target}_{side}"
        for target in ("error", "recon", "act")
        for side in ("base", "tuned")
    ),
    *("kl", "recovered", "kl_other", "nll", "top1"),
}
"""Columns that come with _low and _high."""

FILES = {
    "run.json": "Models, data, settings, versions, and each finished stage with its key.",
    "layers.json": "The layers that `--layers auto` chose, why, and what it measured.",
    "elicited.jsonl": "Chats that both models wrote, in a run that was given no text.",
    "reading.json": "What was read of the data: documents, tokens by role, rows skipped and why.",
    "behaviour.json": "What the tuned model does differently, as claims.",
    "links.json": "Which findings carry the verified claims.",
    "activations/": "Activations of both models: manifest.json and shards of safetensors.",
    "dictionaries/NAME/": "config.json (settings, statistics) and weights.safetensors.",
    "latents/": "Latent tables.",
    "examples/NAME.json": "Windows of text in which the strongest latents fire.",
    "causal/": "Causal tables.",
    "findings.json": "The verdict and the findings.",
    "direct/": "Tables of the commands without a dictionary, where they were run.",
    "audits/": "Hypotheses of a language model on the pair, where they were asked for.",
    "report/index.html": "The page; it opens from disk and loads nothing.",
}
"""What a run folder holds, in the order of the data."""


def columns_of(table: str, roles: tuple[str, ...]) -> list[str]:
    """Return the names of all columns of a table, the roles and the bounds written out.

    Args:
        table: A key of `TABLES`.
        roles: Names of the token roles.
    """
    names = []
    for name in TABLES[table][1]:
        if name == "share_ROLE":
            names += [f"share_{role}" for role in roles]
        else:
            names += [name, *(f"{name}{end}" for end in ("_low", "_high") if name in BOUNDED)]
    return names
