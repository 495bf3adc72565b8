// Every word that the page says about a number: labels, definitions, where they come from.

const POST =
  "https://www.lesswrong.com/posts/xmpauEXEerzYcJKNm/what-we-learned-trying-to-diff-base-and-chat-models-and-why";
const PAPER = "https://arxiv.org/abs/2504.02922";

const GLOSSARY = {
  latent: [
    "Latent",
    "One entry of a dictionary: a direction in activation space and a strength, its code, for every token.",
  ],
  dictionary: [
    "Dictionary",
    "A sparse model of the activations. A crosscoder reads both models at once and has a decoder for each; a tuned-SAE reads the tuned model, a base-SAE the base model, and a diff-SAE the difference tuned − base.",
  ],
  strength: [
    "Strength",
    "How far a model's activation reaches along a latent's unit direction, (h − b)·d/‖d‖, measured from that model's mean b. The same direction and the same scale for both models, so that the two can be compared token by token.",
  ],
  frequency: ["Frequency", "Share of tokens on which the latent is active."],
  effect: [
    "Effect",
    "How large the change is, in the unit of its kind, with its 95% interval: a ratio of strengths or of frequencies, an angle, a length.",
  ],
  q_value: [
    "q-value",
    "Expected share of false findings among this one and all surer ones, from sign flips over sequences and, of two models, from what random noise in the weights shows.",
  ],
  kl: [
    "KL",
    "Kullback–Leibler divergence, in nats a token, from the tuned model's next-token distribution to that of the tuned model run on an edited activation.",
  ],
  recovered: [
    "KL recovered",
    "1 − KL with the edit / KL with the base model's activation put into the tuned model. 100%: the edit carries the whole difference in behaviour; 0%: none of it. Below zero: worse than the base model's activation.",
  ],
  fve: [
    "FVE",
    "Fraction of the variance of the dictionary's input that it reconstructs, on held-out sequences.",
  ],
  l0: ["L0", "Mean number of latents active on a token."],
  dead: ["Dead", "Share of latents that did not fire on the tokens looked at."],
  k: ["k", "Active latents a token that the training allows, on average over a batch."],
  delta_norm: [
    "Δ norm",
    "½·((‖d_tuned‖ − ‖d_base‖)/max + 1) of a crosscoder's decoder norms. Above 0.9 tuned-only, below 0.1 base-only, 0.4 to 0.6 shared.",
  ],
  beta: [
    "β",
    "Latent Scaling: the factor on a latent that best explains a target in one model, by least squares.",
  ],
  nu_error: [
    "ν error",
    "β of the base model over β of the tuned model, fitted to what the dictionary leaves unexplained. Near 0: specific to the tuned model; near 1: shared. High although Δ norm says tuned-only: Complete Shrinkage.",
  ],
  nu_recon: [
    "ν reconstruction",
    "The same ratio, fitted to the reconstruction. High although Δ norm says tuned-only: Latent Decoupling, the concept sits in another latent of the base model.",
  ],
  nu_act: [
    "ν activation",
    "The same ratio, fitted to the activations. Near 0: the latent explains the tuned model only; near 1: both alike.",
  ],
  difference_share: [
    "Difference share",
    "Share of the variance of the difference tuned − base that this latent explains.",
  ],
  twin: [
    "Twin",
    "Another latent whose decoder points almost the same way (cosine over 0.9): the sign of one concept stored twice.",
  ],
  template_share: ["Template share", "Share of a latent's firings that fall on chat-template tokens."],
  class: ["Class", "What the decoder norms alone say: tuned-only, base-only, shared or other."],
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

// What a card says about a kind of finding.
const KINDS = {
  new: "Only in the tuned model",
  removed: "Only in the base model",
  scaled: "Stronger or weaker in the tuned model",
  rotated: "Points another way in the tuned model",
  retriggered: "Fires in other contexts in the tuned model",
  refrequencied: "Fires more or less often in the tuned model",
  twin: "One concept stored twice",
  "mean-shift": "A constant offset on all tokens",
};

// [pattern of an intervention's name, label, what is put in, kind of row]
const INTERVENTIONS = [
  [/^none$/, "Base activation", "The gap to be closed: the base model's activation as it is.", "control"],
  [
    /^base model$/,
    "Base model, unpatched",
    "Where its KL is above that of the base activation, part of the change lies after this layer.",
    "control",
  ],
  [/^exact$/, "Check: tuned activation", "Must recover everything.", "control"],
  [
    /^reconstruction$/,
    "Reconstruction",
    "What the dictionary rebuilds of the difference, or of the tuned activation.",
    "main",
  ],
  [
    /^paired reconstruction$/,
    "Reconstruction, base taken off",
    "The SAE reads both models and only the difference of the two is added.",
    "main",
  ],
  [/^error$/, "Error", "What the dictionary leaves out of the difference. Low is good.", "error"],
  [/^bias$/, "Decoder bias alone", "The dictionary's constant part.", "control"],
  [
    /^template only$/,
    "Template tokens alone",
    "The tuned activation on chat-template tokens, the base activation elsewhere.",
    "main",
  ],
  [/^(exact|reconstruction) at (.+)$/, "$1 at $2", "Put in there only, the base activation elsewhere.", "main"],
  [/^subset nu<=(.+) with bias$/, "Latents with ν ≤ $1, with bias", "The constant is added too.", "main"],
  [/^subset nu<=(.+)$/, "Latents with ν ≤ $1", "The latents most specific to the tuned model.", "main"],
  [/^subset top (.+)$/, "Top $1 latents", "Those that carry most of the difference.", "main"],
  [/^subset all$/, "All live latents", "Without the dictionary's constant part.", "main"],
  [/^subset block (.+)$/, "Block $1", "The latents that the method sets apart.", "main"],
  [/^additive (.+)$/, "Additive, $1", "The tuned decoder alone is added, not the difference.", "main"],
  [/^paired (.+)$/, "Paired, $1", "The SAE reads both models; the difference of its codes is added.", "main"],
  [
    /^random latents nu<=(.+)$/,
    "Control: random, for ν ≤ $1",
    "As many other live latents, of the same activation mass, none of them in any subset of ν.",
    "control",
  ],
  [
    /^random latents (.+)$/,
    "Control: random, for $1",
    "As many other live latents, of the same activation mass.",
    "control",
  ],
  [
    /^random directions (.+)$/,
    "Control: random directions, $1",
    "The same codes and norms along random directions.",
    "control",
  ],
  [/^mean difference$/, "Control: mean difference", "One constant vector on all tokens.", "control"],
  [/^pca rank (.+)$/, "Control: PCA, rank $1", "The difference cut to its mean and principal components.", "control"],
];

const ROLES = {
  bos: "start",
  template: "template",
  system: "system",
  user: "user",
  assistant: "assistant",
  text: "text",
};
