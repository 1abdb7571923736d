"""Float64 numpy loops that follow the published definitions, written without a look at the library."""

import math

import numpy as np


def softmax(row):
    row = [float(v) for v in row]
    top = max(row)
    exponents = [math.exp(v - top) for v in row]
    return [e / sum(exponents) for e in exponents]


def log_softmax(row):
    row = [float(v) for v in row]
    top = max(row)
    log_sum = top + math.log(sum(math.exp(v - top) for v in row))
    return [v - log_sum for v in row]


def soft_targets(teacher, student, temperature):
    """T² Σ_c p_c (log p_c − log q_c) for each row; Hinton et al. 2015, section 2."""
    values = []
    for t, s in zip(np.asarray(teacher, "float64"), np.asarray(student, "float64"), strict=True):
        log_p, log_q = log_softmax(t / temperature), log_softmax(s / temperature)
        values.append(temperature**2 * sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True)))
    return np.array(values)


def merged(logits, ids, temperature):
    """Log-probabilities of the classes in `ids` of each row, and last of all other classes together."""
    rows = []
    for row, chosen in zip(np.asarray(logits, "float64"), ids, strict=True):
        log_p = log_softmax(row / temperature)
        others = [math.exp(value) for i, value in enumerate(log_p) if i not in set(chosen)]
        rest = math.log(math.fsum(others)) if others and math.fsum(others) > 0 else -math.inf
        rows.append([*(log_p[i] for i in chosen), rest])
    return np.array(rows)


def entropy(logits, temperature):
    """−Σ_c p_c log p_c of each row."""
    rows = [log_softmax(row / temperature) for row in np.asarray(logits, "float64")]
    return np.array([-sum(math.exp(value) * value for value in row) for row in rows])


def log_sigmoid(value):
    return -math.log1p(math.exp(-value)) if value >= 0 else value - math.log1p(math.exp(value))


def bernoulli_soft_targets(teacher, student, temperature):
    """T² times the sum over labels of KL between two yes-or-no distributions, for each row."""
    values = []
    for t, s in zip(np.asarray(teacher, "float64"), np.asarray(student, "float64"), strict=True):
        total = 0.0
        for a, b in zip(t / temperature, s / temperature, strict=True):
            for sign in (1.0, -1.0):
                log_p, log_q = log_sigmoid(sign * a), log_sigmoid(sign * b)
                total += math.exp(log_p) * (log_p - log_q)
        values.append(temperature**2 * total)
    return np.array(values)


def gradient(function, point, step=1e-6):
    """Central differences of a scalar function of an array."""
    point = np.asarray(point, "float64")
    result = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        up, down = point.copy(), point.copy()
        up[index] += step
        down[index] -= step
        result[index] = (function(up) - function(down)) / (2 * step)
    return result


def cross_entropy(probabilities, labels):
    """−log of each row's probability of its label."""
    return np.array([-math.log(row[label]) for row, label in zip(probabilities, labels, strict=True)])


# Conventions of all that follows: the teacher comes before the student, maps are channels-last, and a
# value for each example comes back, whose mean over the batch is the published number. What only a batch
# can have (a column's correlation, a matrix of classes) is added whole to every row.


def float64(*arrays):
    return tuple(np.array(a, "float64") for a in arrays)


def unit(vector):
    """n̂(x) = x / max(‖x‖₂, 1e-12)."""
    vector = np.array(vector, "float64")
    return vector / max(math.sqrt(sum(v * v for v in vector.ravel())), 1e-12)


def kl(log_p, log_q):
    """KL(p‖q) = Σ p (log p − log q) of two rows of logarithms."""
    return sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))


def log_sum(log_terms):
    """The logarithm of a sum of numbers that are given by their logarithms."""
    top = max(log_terms)
    return top + math.log(sum(math.exp(v - top) for v in log_terms))


def smooth_l1(difference):
    """d²/2 where |d| < 1, else |d| − 1/2."""
    size = abs(difference)
    return 0.5 * size * size if size < 1 else size - 0.5


def average_pool(feature_map, height, width):
    """Adaptive average pooling of one map: output i is the mean of ⌊iH/h⌋ up to, but not with, ⌈(i+1)H/h⌉."""
    feature_map = np.array(feature_map, "float64")
    rows, columns, channels = feature_map.shape
    pooled = np.zeros((height, width, channels))
    for i in range(height):
        for j in range(width):
            top, bottom = i * rows // height, -(-(i + 1) * rows // height)
            left, right = j * columns // width, -(-(j + 1) * columns // width)
            pooled[i, j] = feature_map[top:bottom, left:right].mean(axis=(0, 1))
    return pooled


def to_smaller(teacher_map, student_map):
    """Both maps at the smaller height and the smaller width of the two."""
    height = min(teacher_map.shape[0], student_map.shape[0])
    width = min(teacher_map.shape[1], student_map.shape[1])
    return average_pool(teacher_map, height, width), average_pool(student_map, height, width)


def over_stages(method, teachers, students, **settings):
    """The sum of a method's rows over pairs of maps."""
    return sum(method(t, s, **settings) for t, s in zip(teachers, students, strict=True))


# Logits.


def logit_mse(teacher, student):
    """The mean over classes of (s − t)², for each row; Ba and Caruana, 1312.6184."""
    teacher, student = float64(teacher, student)
    return np.array([((s - t) ** 2).sum() / len(t) for t, s in zip(teacher, student, strict=True)])


def hard_labels(teacher, student):
    """−log softmax(s)_y with y = argmax t, the first of equals, for each row."""
    values = []
    for t, s in zip(*float64(teacher, student), strict=True):
        label = next(i for i, v in enumerate(t) if v == max(t))
        values.append(-log_softmax(s)[label])
    return np.array(values)


def label_smoothing(student, labels, epsilon=0.1):
    """−Σ_c ((1 − ε)·1[c = y] + ε/C) log softmax(s)_c, for each row; Szegedy et al., 1512.00567."""
    values = []
    for s, label in zip(*float64(student), labels, strict=True):
        targets = [(1 - epsilon) * (c == label) + epsilon / len(s) for c in range(len(s))]
        values.append(-sum(p * log_q for p, log_q in zip(targets, log_softmax(s), strict=True)))
    return np.array(values)


def standardise(logits):
    """(z − mean) / (1e-7 + std), std with C − 1 in the denominator, for each row; Sun et al., 2403.01427."""
    rows = []
    for z in np.array(logits, "float64"):
        mean = sum(z) / len(z)
        std = math.sqrt(sum((v - mean) ** 2 for v in z) / (len(z) - 1))
        rows.append([(v - mean) / (1e-7 + std) for v in z])
    return np.array(rows)


def standardised_soft_targets(teacher, student, temperature=2.0):
    """T² KL of the standardised logits of both sides, for each row; Sun et al., 2403.01427."""
    return soft_targets(standardise(teacher), standardise(student), temperature)


def target_class_kd(teacher, student, labels, temperature=4.0):
    """TCKD = T² KL(b_t‖b_s), b = (p_y, 1 − p_y), for each row; Zhao et al., 2203.08679."""
    values = []
    for t, s, label in zip(*float64(teacher, student), labels, strict=True):
        binary = []
        for logits in (t, s):
            log_p = log_softmax(logits / temperature)
            others = log_p[:label] + log_p[label + 1 :]
            binary.append((log_p[label], log_sum(others)))
        values.append(temperature**2 * kl(*binary))
    return np.array(values)


def non_target_class_kd(teacher, student, labels, temperature=4.0):
    """NCKD = T² KL of the softmax over the non-target logits, for each row; Zhao et al., 2203.08679.

    One other class has probability one on both sides: 0 with C = 2.
    """
    values = []
    for t, s, label in zip(*float64(teacher, student), labels, strict=True):
        others = [log_softmax(np.delete(logits, label) / temperature) for logits in (t, s)]
        values.append(temperature**2 * kl(*others))
    return np.array(values)


def decoupled(teacher, student, labels, temperature=4.0, alpha=1.0, beta=8.0):
    """DKD = α·TCKD + β·NCKD, for each row; α and β are numbers or one for each row; 2203.08679."""
    target = target_class_kd(teacher, student, labels, temperature)
    others = non_target_class_kd(teacher, student, labels, temperature)
    return alpha * target + beta * others


def standardised_decoupled(teacher, student, labels, temperature=2.0, alpha=1.0, beta=8.0):
    """DKD of the standardised logits of both sides, for each row; 2403.01427."""
    return decoupled(standardise(teacher), standardise(student), labels, temperature, alpha, beta)


def pearson(a, b):
    """⟨a − ā, b − b̄⟩ / (‖a − ā‖‖b − b̄‖ + 1e-8)."""
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (math.sqrt((a * a).sum()) * math.sqrt((b * b).sum()) + 1e-8)


def dist(teacher, student, temperature=1.0, beta=1.0, gamma=1.0):
    """τ²[β(1 − ρ(row)) + γ(1 − mean_C ρ(column))] on softmax(z/τ), for each row; Huang et al., 2205.10536.

    The columns' part belongs to the batch: every row holds all of it. One example has no relation to others: 0.
    """
    p, q = (np.array([softmax(row) for row in z / temperature]) for z in float64(teacher, student))
    intra = 1 - sum(pearson(p[:, c], q[:, c]) for c in range(p.shape[1])) / p.shape[1] if len(p) > 1 else 0.0
    inter = np.array([1 - pearson(a, b) for a, b in zip(p, q, strict=True)])
    return temperature**2 * (beta * inter + gamma * intra)


def dist_total(teacher, student, temperature=1.0, beta=1.0, gamma=1.0):
    """τ²[β(1 − mean_B ρ(rows)) + γ(1 − mean_C ρ(columns))], one number; Huang et al., 2205.10536."""
    p, q = (np.array([softmax(row) for row in z / temperature]) for z in float64(teacher, student))
    rows = np.mean([pearson(a, b) for a, b in zip(p, q, strict=True)])
    columns = np.mean([pearson(a, b) for a, b in zip(p.T, q.T, strict=True)])
    return temperature**2 * (beta * (1 - rows) + gamma * (1 - columns))


def generalised_jsd(teacher, student, beta=0.5, temperature=1.0):
    """β KL(p‖M) + (1 − β) KL(q‖M), M = βp + (1 − β)q, over the last axis; Agarwal et al., 2306.13649.

    β = 0 is KL(p‖q) and β = 1 is KL(q‖p), the limits of JSD/β and JSD/(1 − β). No T². (..., V) to (...).
    """
    teacher, student = float64(teacher, student)
    values = np.zeros(teacher.shape[:-1])
    for index in np.ndindex(values.shape):
        log_p, log_q = log_softmax(teacher[index] / temperature), log_softmax(student[index] / temperature)
        if beta == 0:
            values[index] = kl(log_p, log_q)
        elif beta == 1:
            values[index] = kl(log_q, log_p)
        else:
            pairs = zip(log_p, log_q, strict=True)
            log_m = [log_sum([math.log(beta) + a, math.log(1 - beta) + b]) for a, b in pairs]
            values[index] = beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)
    return values


def masked_mean(values, mask):
    """The mean over the tokens of the whole batch whose mask is true, one number."""
    kept = [values[index] for index in np.ndindex(np.shape(values)) if mask[index]]
    return sum(kept) / len(kept)


def mlkd(teacher, student, temperatures=(2.0, 3.0, 4.0, 5.0, 6.0), *, standardised=False):
    """Σ_T [T² KL + ‖PPᵀ − QQᵀ‖²/B + ‖PᵀP − QᵀQ‖²/C], for each row; Jin et al., CVPR 2023.

    Row i holds its own KL and Σ_j of the (B, B) matrix's row i; the (C, C) matrix belongs to the batch:
    every row holds all of it. Standardisation (2403.01427) is of the KLs' logits alone.
    """
    teacher, student = float64(teacher, student)
    total = np.zeros(len(teacher))
    for temperature in temperatures:
        p, q = (np.array([softmax(row) for row in z / temperature]) for z in (teacher, student))
        examples, classes = p @ p.T - q @ q.T, p.T @ p - q.T @ q
        divergence = standardised_soft_targets if standardised else soft_targets
        total += divergence(teacher, student, temperature)
        total += (examples**2).sum(axis=1) + (classes**2).sum() / p.shape[1]
    return total


def ctkd_temperature(theta=1.0, start=1.0, span=20.0):
    """T = 1 + 20·σ(θ), θ₀ = 1; Li et al., 2211.16231."""
    return start + span * math.exp(log_sigmoid(theta))


def ctkd_reversal(epoch, epochs=10):
    """λ, which multiplies θ's gradient: −(1 − cos(π·min(epoch, 10)/10))/2, from 0 to −1; 2211.16231."""
    return -(1 - math.cos(math.pi * min(max(epoch, 0), epochs) / epochs)) / 2


def ctkd(teacher, student, theta=1.0):
    """T² KL at T = 1 + 20·σ(θ), for each row; T² is a function of θ too; Li et al., 2211.16231."""
    return soft_targets(teacher, student, ctkd_temperature(theta))


# Features.


def hint(teacher, regressed):
    """The mean over an example's elements of (r(f_s) − f_t)², r(f_s) given; Romero et al., 1412.6550."""
    teacher, regressed = float64(teacher, regressed)
    return np.array([((r - t) ** 2).mean() for t, r in zip(teacher, regressed, strict=True)])


def attention_map(feature_map, p=2, *, paper=False):
    """n̂(flatten(mean_c |f|^p)) of one map; the paper sums over c; Zagoruyko and Komodakis, 1612.03928."""
    height, width, channels = feature_map.shape
    energy = np.zeros(height * width)
    for i in range(height):
        for j in range(width):
            energy[i * width + j] = sum(abs(v) ** p for v in feature_map[i, j])
    return unit(energy if paper else energy / channels)


def attention_transfer(teacher, student, p=2, *, paper=False):
    """The mean over HW of (Q_s − Q_t)², Q the attention map, for each example of one stage; 1612.03928.

    The paper's form is ‖Q_s − Q_t‖₂, without its β/2. The larger map is first average-pooled to the smaller.
    """
    values = []
    for t, s in zip(*float64(teacher, student), strict=True):
        t, s = to_smaller(t, s)
        squares = (attention_map(s, p, paper=paper) - attention_map(t, p, paper=paper)) ** 2
        values.append(math.sqrt(squares.sum()) if paper else squares.mean())
    return np.array(values)


def vid_variance(a):
    """v_c = log(1 + e^{a_c}) + 1e-5; Ahn et al., 1904.05835."""
    return np.array([-log_sigmoid(-v) + 1e-5 for v in np.array(a, "float64").ravel()])


def vid_initial(channels, variance=5.0):
    """a_c = log(e^{5 − 1e-5} − 1), with which v_c = 5; Ahn et al., 1904.05835."""
    return np.full(channels, math.log(math.exp(variance - 1e-5) - 1))


def vid(teacher, mu, a):
    """The mean over an example's elements of ½[(μ − f_t)²/v_c + log v_c], c the last axis; 1904.05835."""
    teacher, mu = float64(teacher, mu)
    v = vid_variance(a)
    return np.array([(0.5 * ((m - t) ** 2 / v + np.log(v))).mean() for t, m in zip(teacher, mu, strict=True)])


def nst(teacher, student):
    """mean k(t,t) + mean k(s,s) − 2 mean k(s,t), k = ⟨·,·⟩², for each example of one stage; 1707.01219.

    Means over pairs of channels, whose maps are n̂ over HW. The larger map is first average-pooled to the
    smaller.
    """
    values = []
    for t, s in zip(*float64(teacher, student), strict=True):
        maps_t, maps_s = ([unit(f[..., c]).ravel() for c in range(f.shape[-1])] for f in to_smaller(t, s))

        def mean_kernel(left, right):
            return sum((a * b).sum() ** 2 for a in left for b in right) / (len(left) * len(right))

        values.append(
            mean_kernel(maps_t, maps_t) + mean_kernel(maps_s, maps_s) - 2 * mean_kernel(maps_s, maps_t)
        )
    return np.array(values)


def ofd_margin(beta, gamma, *, floor=1e-3):
    """m_c = E[x | x < 0] of x ~ N(β_c, γ_c²) = β − |γ| φ(β/|γ|) / Φ(−β/|γ|); Heo et al., 1904.01866.

    Where Φ ≤ 0.001 the reference code takes −3|γ|; floor=0 never does. γ = 0 is the limit min(β, 0).
    """
    margins = []
    for mean, std in zip(*float64(beta, np.abs(gamma)), strict=True):
        if std == 0:
            margins.append(min(mean, 0.0))
            continue
        density = math.exp(-((mean / std) ** 2) / 2) / math.sqrt(2 * math.pi)
        below = math.erfc(mean / std / math.sqrt(2)) / 2
        margins.append(mean - std * density / below if below > floor else -3 * std)
    return np.array(margins)


def ofd(teacher, connected, margins):
    """Σ_i 2^{−(n−1−i)} Σ (s − t')² [s > t' or t' > 0] / 1000, t' = max(t, m_c), for each example; 1904.01866.

    One (B, H, W, C) array of pre-ReLU teacher features, of connector outputs and one (C,) of margins for each
    of the n stages, in order.
    """
    values = np.zeros(len(teacher[0]))
    for i, (stage_t, stage_s, margin) in enumerate(zip(teacher, connected, margins, strict=True)):
        stage_t, stage_s, margin = float64(stage_t, stage_s, margin)
        for example, (t, s) in enumerate(zip(stage_t, stage_s, strict=True)):
            target = np.maximum(t, margin)
            counted = (s > target) | (target > 0)
            distance = ((s - target) ** 2)[counted].sum()
            values[example] += distance / 2 ** (len(teacher) - 1 - i) / 1000
    return values


# Relations: row i holds the pairs (or, for angles, the triples) whose first member is example i.


def flat(features):
    return np.array(features, "float64").reshape(len(features), -1)


def similarity_preserving(teacher, student):
    """‖G_t − G_s‖²_F / B², G = row-n̂(FFᵀ); row i holds Σ_j (…)²/B; Tung and Mori, 1907.09682."""
    grams = [np.array([unit(row) for row in f @ f.T]) for f in (flat(teacher), flat(student))]
    return np.array([((t - s) ** 2).sum() / len(t) for t, s in zip(*grams, strict=True)])


def distances(features):
    """D = √max(‖a − b‖², 1e-12), 0 on the diagonal, over the mean of the positive ones; 1904.05068."""
    features = flat(features)
    d = np.zeros((len(features), len(features)))
    for i, j in np.ndindex(d.shape):
        if i != j:
            d[i, j] = math.sqrt(max(((features[i] - features[j]) ** 2).sum(), 1e-12))
    return d / d[d > 0].mean() if len(features) > 1 else d


def rkd_distance(teacher, student):
    """The mean over B² of smooth-L1(D_s − D_t); row i holds Σ_j …/B; Park et al., 1904.05068."""
    rows = zip(distances(teacher), distances(student), strict=True)
    return np.array([sum(smooth_l1(b - a) for a, b in zip(t, s, strict=True)) / len(t) for t, s in rows])


def angles(features):
    """A_ijk = ⟨e_ij, e_ik⟩, e_ij = n̂(x_j − x_i), i the vertex; a zero vector where j = i; 1904.05068."""
    features = flat(features)
    count = len(features)
    e = [[unit(features[j] - features[i]) for j in range(count)] for i in range(count)]
    return np.array([[[a @ b for b in edges] for a in edges] for edges in e])


def rkd_angle(teacher, student):
    """The mean over B³ of smooth-L1(A_s − A_t); row i holds Σ_jk …/B²; Park et al., 1904.05068."""
    differences = angles(student) - angles(teacher)
    return np.array([sum(smooth_l1(v) for v in row.ravel()) / row.size for row in differences])


def rkd(teacher, student, distance=25.0, angle=50.0):
    """25·D + 50·A, for each row; Park et al., 1904.05068."""
    return distance * rkd_distance(teacher, student) + angle * rkd_angle(teacher, student)


def pkt(teacher, student):
    """The mean over B² of K_t log((K_t + 1e-7)/(K_s + 1e-7)); row i holds Σ_j …/B; 1803.10837.

    K = (XXᵀ + 1)/2 over its row's sum, the diagonal included; X's rows are x/(‖x‖ + 1e-7).
    """
    kernels = []
    for features in (flat(teacher), flat(student)):
        x = np.array([row / (math.sqrt(row @ row) + 1e-7) for row in features])
        k = (x @ x.T + 1) / 2
        kernels.append(np.array([row / row.sum() for row in k]))
    k_t, k_s = kernels
    return np.array(
        [
            sum(a * math.log((a + 1e-7) / (b + 1e-7)) for a, b in zip(row_t, row_s, strict=True)) / len(row_t)
            for row_t, row_s in zip(k_t, k_s, strict=True)
        ]
    )


def crd_scores(anchors, rows, tau=0.07):
    """exp(⟨·,·⟩/τ) of (B, d) anchors with their (B, 1 + K, d) memory rows: (B, 1 + K); 1910.10699."""
    anchors, rows = float64(anchors, rows)
    return np.array([[math.exp(a @ r / tau) for r in own] for a, own in zip(anchors, rows, strict=True)])


def crd_constant(anchors, rows, n, tau=0.07):
    """Z = mean(exp(⟨·,·⟩/τ))·n over the whole first batch, positives included; 1910.10699."""
    return crd_scores(anchors, rows, tau).mean() * n


def crd_side(anchors, rows, z, n, tau=0.07):
    """−log x₀/(x₀ + K/n + 1e-7) − Σ_k log (K/n)/(x_k + K/n + 1e-7), x = exp(⟨·,·⟩/τ)/Z; 1910.10699.

    For each anchor; its memory rows are the positive (first) and the K negatives of the other side.
    """
    values = []
    for scores in crd_scores(anchors, rows, tau):
        noise = (len(scores) - 1) / n
        positive, *negatives = [score / z for score in scores]
        value = -math.log(positive / (positive + noise + 1e-7))
        values.append(value - sum(math.log(noise / (x + noise + 1e-7)) for x in negatives))
    return np.array(values)


def crd(teacher, student, teacher_rows, student_rows, z_student, z_teacher, n, tau=0.07):
    """Student anchors against the teacher's bank plus teacher anchors against the student's; 1910.10699.

    (B, d) embeddings of length one, (B, 1 + K, d) rows of either bank, the positive first. z_student is the
    constant of the student-anchored side, z_teacher of the teacher-anchored one.
    """
    student_anchored = crd_side(student, teacher_rows, z_student, n, tau)
    return student_anchored + crd_side(teacher, student_rows, z_teacher, n, tau)


def crd_update(rows, embeddings, momentum=0.5):
    """Memory rows after a step: momentum·old + (1 − momentum)·new, at length one; 1910.10699."""
    rows, embeddings = float64(rows, embeddings)
    mixed = momentum * rows + (1 - momentum) * embeddings
    return np.array([row / math.sqrt(row @ row) for row in mixed])


# Schemes.


def sum_of_teachers(teachers, student, temperature=4.0):
    """Σ_k T² KL(p_k‖q), teachers (n, B, C), for each row."""
    return sum(soft_targets(teacher, student, temperature) for teacher in teachers)


def mean_logits(teachers, student, temperature=4.0):
    """T² KL(softmax(mean_k t_k / T)‖q), for each row."""
    return soft_targets(np.array(teachers, "float64").mean(axis=0), student, temperature)


def mean_probabilities(teachers, student, temperature=4.0):
    """T² KL(mean_k softmax(t_k / T)‖q), for each row."""
    values = []
    for row, s in enumerate(np.array(student, "float64")):
        probabilities = [softmax(np.array(t[row], "float64") / temperature) for t in teachers]
        mean = [sum(column) / len(probabilities) for column in zip(*probabilities, strict=True)]
        pairs = zip(mean, log_softmax(s / temperature), strict=True)
        values.append(temperature**2 * sum(p * (math.log(p) - log_q) for p, log_q in pairs if p > 0))
    return np.array(values)


def mutual_divergence(logits):
    """mean_{j≠i} KL(p_j‖p_i) at T = 1, logits (n, B, C) to (n, B); Zhang et al., 1706.00384."""
    values = []
    for i, own in enumerate(logits):
        peers = [soft_targets(other, own, 1.0) for j, other in enumerate(logits) if j != i]
        values.append(sum(peers) / len(peers))
    return np.array(values)


def mutual_learning(logits, labels):
    """CE_i + mean_{j≠i} KL(p_j‖p_i), logits (n, B, C) to (n, B); row i is what network i minimises."""
    own = [cross_entropy([softmax(row) for row in member], labels) for member in logits]
    return np.array(own) + mutual_divergence(logits)
