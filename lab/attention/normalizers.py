"""All normalizers: a line here enrols one in tests, in `use`, in the statistics and in the notebooks.

n_i is the number of keys that row i may see. Where a source is a released program or a note on a paper, because the
paper itself was not read, it says so.
"""

from lab.attention import exponential, mixing, pointwise, series, softplus, sparse
from lab.attention.normalizer import Normalizer

NORMALIZERS = {
    # softmax and kin
    "softmax": Normalizer(
        exponential.softmax,
        "e^x_j / sum_k e^x_k",
        "Vaswani et al., 2017, eq. 1. https://arxiv.org/abs/1706.03762",
        mass="1",
        stream=exponential.SOFTMAX,
    ),
    "softmax1": Normalizer(
        exponential.softmax1,
        "e^x_j / (extra + sum_k e^x_k), extra = 1",
        "Miller, Attention is off by one, 2023 (a blog post). https://www.evanmiller.org/attention-is-off-by-one.html",
        mass="at most 1",
        stream=exponential.SOFTMAX1,
    ),
    "sink_logit": Normalizer(
        exponential.sink_logit,
        "e^x_j / (e^sink_h + sum_k e^x_k), sink learned for each head, from 0",
        "gpt-oss, as in transformers' code; its paper unread. https://arxiv.org/abs/2508.10925",
        mass="at most 1",
        learned=exponential.sink_logit_learned,
        stream=exponential.SINK_LOGIT,
    ),
    "ssmax": Normalizer(
        exponential.ssmax,
        "softmax(s_h log(n_i) x)_j, s learned for each head, from .43",
        "Nakanishi, scalable softmax, 2025 (from notes; .43 is what s is said to become). "
        "https://arxiv.org/abs/2501.19399",
        mass="1",
        learned=exponential.ssmax_learned,
        stream=exponential.SSMAX,
    ),
    "adaptive_temperature": Normalizer(
        exponential.adaptive_temperature,
        "softmax(beta x)_j, beta = max(1, -.037 H^4 + .481 H^3 - 2.3 H^2 + 4.917 H - 1.791) where H > .5, else 1, "
        "H the entropy of softmax(x) in nats; beta is 1 again from H = 5.94 on",
        "Velickovic et al., softmax is not enough, 2024 (recalled). https://arxiv.org/abs/2410.01104",
        mass="1",
    ),
    "self_adjust": Normalizer(
        exponential.self_adjust,
        "x_j softmax(x)_j",
        "Self-adjust softmax, 2025 (recalled). https://arxiv.org/abs/2502.18277",
        mass="any",
        stream=exponential.SELF_ADJUST,
    ),
    "self_adjust_normalized": Normalizer(
        exponential.self_adjust_normalized,
        "(x_j - min(x, 0)) / (max(x, 0) - min(x, 0)) softmax(x)_j, over the keys of the row that may be seen",
        "Self-adjust softmax, 2025 (recalled). https://arxiv.org/abs/2502.18277",
        mass="at most 1",
        stream=exponential.SELF_ADJUST_NORMALIZED,
    ),
    "softpick": Normalizer(
        exponential.softpick,
        "relu(e^x_j - 1) / (sum_k |e^x_k - 1| + eps)",
        "Zuhri et al., softpick, 2025 (abstract and released code; eps as in its kernel). "
        "https://arxiv.org/abs/2504.20966",
        mass="at most 1",
        stream=exponential.SOFTPICK,
    ),
    # each weight by its own score
    "sigmoid": Normalizer(
        pointwise.sigmoid,
        "sigma(x_j + bias), bias = -log n_i",
        "Ramapuram et al., sigmoid attention, 2024 (from its released code and notes). "
        "https://arxiv.org/abs/2409.04431",
        mass="any",
        stream=pointwise.SIGMOID,
    ),
    "sigmoid_normalized": Normalizer(
        pointwise.sigmoid_normalized,
        "sigma(x_j) / sum_k sigma(x_k)",
        "Gu et al., ICLR 2025, table 6 (from its code and notes). https://arxiv.org/abs/2410.10781",
        mass="1",
        stream=pointwise.SIGMOID_NORMALIZED,
    ),
    "relu": Normalizer(
        pointwise.relu,
        "relu(x_j) / n_i",
        "Wortsman et al., replacing softmax with ReLU, 2023 (recalled; n_i where the paper has the length). "
        "https://arxiv.org/abs/2309.08586",
        mass="any",
        stream=pointwise.RELU,
    ),
    "stablemax": Normalizer(
        pointwise.stablemax,
        "s(x_j) / sum_k s(x_k), s(x) = x + 1 from 0 on and 1 / (1 - x) below",
        "Prieto et al., grokking at the edge of numerical stability, 2025 (from its released code). "
        "https://arxiv.org/abs/2501.04697",
        mass="1",
        stream=pointwise.STABLEMAX,
    ),
    "swat": Normalizer(
        pointwise.swat,
        "sigma(x_mn + s_h (m - n)) for distances below the window, s = -2^-k for half of the heads, +2^-k for half",
        "Sliding window attention training, 2025 (abstract and notes; its released code has other slopes). "
        "https://arxiv.org/abs/2502.18845",
        mass="any",
        stream=pointwise.SWAT,
    ),
    # exact zeros
    "sparsemax": Normalizer(
        sparse.sparsemax,
        "relu(x_j - tau), tau such that the row sums to 1",
        "Martins & Astudillo, ICML 2016, eq. 2. https://arxiv.org/abs/1602.02068",
        mass="1",
    ),
    "entmax15": Normalizer(
        sparse.entmax15,
        "relu(x_j / 2 - tau)^2, tau such that the row sums to 1",
        "Peters, Niculae & Martins, ACL 2019 (recalled). https://arxiv.org/abs/1905.05702",
        mass="1",
    ),
    "entmax": Normalizer(
        sparse.entmax,
        "relu((alpha - 1) x_j - tau)^(1 / (alpha - 1)), tau such that the row sums to 1, alpha from 1 to 2",
        "Correia, Niculae & Martins, EMNLP 2019 (recalled). https://arxiv.org/abs/1909.00015",
        mass="1",
    ),
    # softplus of cosines
    "lssa": Normalizer(
        softplus.lssa,
        "a_j / sum_k a_k, a = softplus(log(n_i) x), x = log(D) cos(q, k) in a layer",
        "Length-scaled softplus attention, 2025 (from notes). https://arxiv.org/abs/2501.13428",
        mass="1",
        before=softplus.cosines,
        stream=softplus.LSSA,
    ),
    "lssa_unnormalized": Normalizer(
        softplus.lssa_unnormalized,
        "a_j = softplus(log(n_i) x), x = log(D) cos(q, k) in a layer: lssa less its l1 norm, the ablation of it",
        "As lssa, whose abstract calls the norm the essential part (abstract; how far the paper's own ablation is this "
        "form was not read). https://arxiv.org/abs/2501.13428",
        mass="any",
        before=softplus.cosines,
        stream=softplus.LSSA_UNNORMALIZED,
    ),
    "lssar": Normalizer(
        softplus.lssar,
        "relu(n_i A_j - 1)^power over its sum, A = lssa(x), power = 3; A_j^power in rows of 3 keys or less",
        "Length-scaled softplus attention with re-weighting, 2025 (from notes). https://arxiv.org/abs/2501.13428",
        mass="at most 1",  # a row of equal keys has nothing above its mean
        before=softplus.cosines,
    ),
    # recurrences
    "linear": Normalizer(
        series.linear,
        "s_j / sum_k s_k, s_j = phi(q) . phi(k_j) in a layer, phi = elu + 1; on given scores, s = relu(x)",
        "Katharopoulos et al., ICML 2020, eq. 7 (number recalled). https://arxiv.org/abs/2006.16236",
        mass="1",
        before=series.features,
        stream=series.LINEAR,
    ),
    "recurrent": Normalizer(
        series.recurrent,
        "e_M(x_j) / sum_k e_M(x_k), e_M(x) = sum_(m <= M) x^m / m!, M = order = 8",
        "On the expressiveness of softmax attention: a recurrent neural network perspective, 2025 (abstract). "
        "https://arxiv.org/abs/2507.23632",
        mass="1",
        stream=series.RECURRENT,
    ),
    "recurrent_norm": Normalizer(
        series.recurrent_norm,
        "e_M(x_j) up to a factor of the row, the output divided by its root mean square in each head",
        "As recurrent, a norm in the denominator's place (abstract; which norm is ours). "
        "https://arxiv.org/abs/2507.23632",
        mass="any",
        after=series.normed,
        stream=series.RECURRENT_NORM,
    ),
    "recurrent_gate": Normalizer(
        series.recurrent_gate,
        "e_M(x_j), the output times sigma(W_g h_t)",
        "As recurrent, a gate in the denominator's place (abstract; which gate is ours). "
        "https://arxiv.org/abs/2507.23632",
        mass="any",
        learned=mixing.gate_learned,
        after=mixing.gated,
        stream=series.RECURRENT_GATE,
    ),
    # beyond the row
    "ssa": Normalizer(
        exponential.ssa,
        "softmax(tau_i x)_j, tau_i = 1 + tanh(w . h_i) + length_h log n_i, h_i the state that enters attention, values "
        "times 1 + tanh(u . v_j); w, u from 0",
        "Selective self-attention, NeurIPS 2024 (from notes, tanh(f(h)); f is linear here and shares no weights, as "
        "the paper's does by its abstract; the released code has the length alone, its weight's initial value is ours "
        "too). https://arxiv.org/abs/2411.12892",
        mass="1",
        learned=mixing.temperatures,
        before=mixing.scaled_values,
        rows=mixing.spikes,
        stream=exponential.SSA,
    ),
    "mta": Normalizer(
        mixing.mta,
        "softmax of scores convolved over 6 queries back and 11 keys about, heads mixed in pairs; kernels learned, "
        "from the identity. The paper's norm of each head is not part of it",
        "Multi-token attention, 2025 (from its released code). https://arxiv.org/abs/2504.00927",
        mass="any",
        learned=mixing.identity_kernels,
        halo=mixing.queries_before,
        aligned=True,
    ),
    "gated": Normalizer(
        exponential.softmax,
        "softmax(x)_j, the output times sigma(W_g h_t); W_g learned, from 0",
        "Qiu et al., gated attention, 2025 (from its released code). https://arxiv.org/abs/2505.06708",
        mass="1",
        learned=mixing.gate_learned,
        after=mixing.gated,
        stream=exponential.SOFTMAX,
    ),
}
