// The words of the page: labels, definitions and their sources.

const POST =
  "https://www.lesswrong.com/posts/xmpauEXEerzYcJKNm/what-we-learned-trying-to-diff-base-and-chat-models-and-why";
const PAPER = "https://arxiv.org/abs/2504.02922";

const GLOSSARY = {
  latent: [
    "Latent",
    "One direction of a dictionary. Its code says how strongly it is active at each token.",
  ],
  dictionary: [
    "Dictionary",
    "A set of directions (latents) that writes each activation as a sum of few of them. A crosscoder reads both models and has a decoder for each. A tuned-SAE reads the tuned model, a base-SAE the base model, and a diff-SAE the difference tuned − base.",
  ],
  strength: [
    "Strength",
    "How far a model's activation reaches along the latent's unit direction, (h − b)·d/‖d‖, measured from that model's median b. Both models use the same direction and scale, so you can compare them token by token.",
  ],
  frequency: ["Frequency", "Share of tokens on which the latent is active."],
  effect: [
    "Effect",
    "Size of the change with its 95% interval, in the unit of its kind: a ratio of strengths or frequencies, an angle, or a length.",
  ],
  q_value: [
    "q-value",
    "Expected share of false positives if you accept this finding and all stronger ones. It comes from sign flips over sequences and, if there are two models, from comparison with random weight noise.",
  ],
  kl: [
    "KL",
    "Kullback–Leibler divergence, in nats per token, between the next-token predictions of the tuned model and of the tuned model with an edited activation patched in.",
  ],
  recovered: [
    "KL recovered",
    "1 − KL with the edit / KL with the base model's activation (the KL gap). 100%: the edit carries the whole change in behaviour. 0%: none of it. Below zero: worse than the base model's activation.",
  ],
  fve: [
    "FVE",
    "Fraction of variance explained: how much of the variance of its input the dictionary reconstructs, on held-out sequences.",
  ],
  l0: ["L0", "Mean number of active latents per token."],
  dead: ["Dead", "Share of latents that never fire."],
  k: ["k", "Mean number of active latents per token that the training keeps."],
  delta_norm: [
    "Δ norm",
    "½·((‖d_tuned‖ − ‖d_base‖)/max + 1) of a crosscoder's decoder norms. Above 0.9 tuned-only, below 0.1 base-only, 0.4 to 0.6 shared.",
  ],
  beta: [
    "β",
    "Latent Scaling: the factor by which a latent best fits a target in one model (least squares).",
  ],
  nu_error: [
    "ν error",
    "β of the base model / β of the tuned model, fitted to the dictionary's error. Near 0: specific to the tuned model. Near 1: shared. If it is high but Δ norm says tuned-only, this is Complete Shrinkage.",
  ],
  nu_recon: [
    "ν reconstruction",
    "The same ratio, fitted to the reconstruction. If it is high but Δ norm says tuned-only, this is Latent Decoupling: another latent stores the concept for the base model.",
  ],
  nu_act: [
    "ν activation",
    "The same ratio, fitted to the activations. Near 0: the latent explains only the tuned model. Near 1: it explains both equally.",
  ],
  difference_share: [
    "Difference share",
    "Share of the variance of the difference tuned − base that this latent explains.",
  ],
  twin: [
    "Twin",
    "A latent of the opposite class whose decoder points almost the same way (cosine above 0.9): a sign that one concept is stored twice.",
  ],
  template_share: ["Template share", "Share of a latent's firings that fall on chat-template tokens."],
  class: ["Class", "What the decoder norms say: tuned-only, base-only, shared or other."],
};

const CITED = {
  post: ["Dumas, Minder, Nanda: What We Learned Trying to Diff Base and Chat Models (2025)", POST],
  paper: ["Minder, Dumas et al.: Overcoming Sparsity Artifacts in Crosscoders (2025)", PAPER],
};
const SOURCES = {
  dictionary: ["post", "Background; Maybe We Don't Need Crosscoders?"],
  recovered: ["post", "diff-SAEs Excel at Capturing Behavioral Differences"],
  delta_norm: ["post", "The Problem: Most Model-Specific Latents Aren't"],
  beta: ["post", "appendix B, Closed Form Solution for Latent Scaling"],
  nu_error: ["post", "The Problem: Most Model-Specific Latents Aren't"],
  nu_recon: ["post", "The Problem: Most Model-Specific Latents Aren't"],
  nu_act: ["post", "Maybe We Don't Need Crosscoders?"],
  template_share: ["paper", "on template tokens"],
  k: ["post", "The Fix: BatchTopK Crosscoders"],
};

// The title of a card, by kind of finding.
const KINDS = {
  new: "Only in the tuned model",
  removed: "Only in the base model",
  scaled: "Stronger or weaker in the tuned model",
  rotated: "Different direction in the tuned model",
  retriggered: "Active in different contexts in the tuned model",
  refrequencied: "Active more or less often in the tuned model",
  twin: "One concept stored twice",
  "mean-shift": "A constant offset on all tokens",
};

// [pattern of an intervention's name, label, what is patched in, kind of row]
const INTERVENTIONS = [
  [/^none$/, "Base activation", "The KL gap: the base model's activation, unedited.", "control"],
  [
    /^base model$/,
    "Base model, unpatched",
    "If its KL is above that of the base activation, part of the change comes after this layer.",
    "control",
  ],
  [/^exact$/, "Check: tuned activation", "Must recover 100%.", "control"],
  [
    /^reconstruction$/,
    "Reconstruction",
    "The difference, or the tuned activation, as the dictionary reconstructs it.",
    "main",
  ],
  [
    /^paired reconstruction$/,
    "Reconstruction, base subtracted",
    "The SAE reconstructs both models; only the difference of the two is added.",
    "main",
  ],
  [/^error$/, "Error", "The part of the difference that the dictionary misses. Low is good.", "error"],
  [/^bias$/, "Decoder bias alone", "The decoder bias, a constant.", "control"],
  [
    /^template only$/,
    "Template tokens alone",
    "The tuned activation on chat-template tokens, the base activation elsewhere.",
    "main",
  ],
  [/^(exact|reconstruction) at (.+)$/, "$1 at $2", "Patched in there only; the base activation elsewhere.", "main"],
  [/^subset nu<=(.+) with bias$/, "Latents with ν ≤ $1, with bias", "The decoder bias is added too.", "main"],
  [/^subset nu<=(.+)$/, "Latents with ν ≤ $1", "The latents most specific to the tuned model.", "main"],
  [/^subset top (.+)$/, "Top $1 latents", "The latents with the largest difference share.", "main"],
  [/^subset all$/, "All live latents", "Without the decoder bias.", "main"],
  [/^subset block (.+)$/, "Block $1", "The latents that the method sets apart.", "main"],
  [/^additive (.+)$/, "Additive, $1", "The tuned decoder alone is added, not the difference.", "main"],
  [/^paired (.+)$/, "Paired, $1", "The SAE reads both models; the difference of its codes is added.", "main"],
  [
    /^random latents nu<=(.+)$/,
    "Control: random, for ν ≤ $1",
    "The same number of other live latents with the same activation mass, none of them in a subset by ν.",
    "control",
  ],
  [
    /^random latents (.+)$/,
    "Control: random, for $1",
    "The same number of other live latents with the same activation mass.",
    "control",
  ],
  [
    /^random directions (.+)$/,
    "Control: random directions, $1",
    "The same codes and norms, along random directions.",
    "control",
  ],
  [/^mean difference$/, "Control: mean difference", "One constant vector on all tokens.", "control"],
  [/^pca rank (.+)$/, "Control: PCA, rank $1", "The difference reduced to its mean and principal components.", "control"],
];

const ROLES = {
  bos: "start",
  template: "template",
  system: "system",
  user: "user",
  assistant: "assistant",
  text: "text",
  reasoning: "reasoning",
  tool: "tool",
};
