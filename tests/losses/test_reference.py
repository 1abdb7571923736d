"""The oracle against facts that need no implementation: numbers by hand, identities and invariances."""

import math

import numpy as np
import pytest
import reference

LOG2, LOG3 = math.log(2), math.log(3)


def draw(*shape, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def pair(count=5, classes=4):
    return draw(count, classes, scale=3.0), draw(count, classes, seed=1, scale=3.0)


def rotation(width, seed=5):
    return np.linalg.qr(draw(width, width, seed=seed))[0]


def close(actual, expected, **tolerance):
    np.testing.assert_allclose(actual, expected, **({"rtol": 1e-10, "atol": 1e-12} | tolerance))


LABELS = np.array([0, 3, 1, 1, 2])
# Probabilities (1/2, 1/4, 1/4) and (1/4, 1/2, 1/4).
HALF_FIRST, HALF_SECOND = np.log([[2.0, 1.0, 1.0]]), np.log([[1.0, 2.0, 1.0]])


# Logits.


def test_logit_mse_by_hand():
    close(reference.logit_mse([[1, 2], [0, 0]], [[2, 4], [0, 3]]), [2.5, 4.5])


def test_hard_labels_take_the_first_of_equals():
    student = np.log([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]])
    close(reference.hard_labels([[0, 7, 1], [4, -1, 4]], student), [math.log(4), math.log(8)])


def test_label_smoothing_by_hand():
    expected = -(0.9 + 0.1 / 3) * math.log(1 / 2) - 2 * (0.1 / 3) * math.log(1 / 4)
    close(reference.label_smoothing(HALF_FIRST, [0]), [expected])


def test_label_smoothing_ends_at_cross_entropy_and_at_the_uniform_distribution():
    _, student = pair()
    own = reference.cross_entropy([reference.softmax(row) for row in student], LABELS)
    close(reference.label_smoothing(student, LABELS, 0.0), own)
    uniform = [-np.mean(reference.log_softmax(row)) for row in student]
    close(reference.label_smoothing(student, LABELS, 1.0), uniform)


def test_standardise_by_hand():
    close(reference.standardise([[1, 2, 3]]), [[-1, 0, 1]], atol=1e-6)
    close(reference.standardise([[1, 2, 3]])[0, 2], 1 / (1 + 1e-7))
    rows = reference.standardise(draw(5, 7))
    close(rows.mean(axis=1), 0)
    close(rows.std(axis=1, ddof=1), 1, rtol=1e-5)
    assert not np.any(reference.standardise([[4.0, 4.0, 4.0]]))


def test_standardised_losses_ignore_an_affine_map_of_a_row():
    teacher, student = pair()
    slope, shift = np.array([[0.5], [1], [2], [3], [10]]), draw(5, 1)
    close(reference.standardise(slope * student + shift), reference.standardise(student), rtol=1e-5)
    close(reference.standardised_soft_targets(teacher, slope * teacher + shift), 0, atol=1e-9)
    close(reference.standardised_decoupled(teacher, slope * teacher + shift, LABELS), 0, atol=1e-9)
    for method, more in (
        (reference.standardised_soft_targets, ()),
        (reference.standardised_decoupled, (LABELS,)),
    ):
        moved = method(teacher, slope * student + shift, *more)
        close(moved, method(teacher, student, *more), rtol=1e-5)


def test_standardised_soft_targets_by_hand():
    value = reference.standardised_soft_targets([[1, 2, 3]], [[3, 2, 1]], 2.0)
    odds = np.exp([-0.5, 0, 0.5]) / np.exp([-0.5, 0, 0.5]).sum()
    close(value, [4 * (odds * np.array([-1.0, 0.0, 1.0])).sum()], rtol=1e-6)


def test_decoupled_by_hand():
    # b_t = (1/2, 1/2), b_s = (1/4, 3/4); the others (1/2, 1/2) and (2/3, 1/3).
    target = 0.5 * LOG2 + 0.5 * math.log(2 / 3)
    others = 0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)
    close(reference.target_class_kd(HALF_FIRST, HALF_SECOND, [0], 1.0), [target])
    close(reference.non_target_class_kd(HALF_FIRST, HALF_SECOND, [0], 1.0), [others])
    close(reference.decoupled(HALF_FIRST, HALF_SECOND, [0], 1.0, 2.0, 3.0), [2 * target + 3 * others])
    close(reference.decoupled(4 * HALF_FIRST, 4 * HALF_SECOND, [0]), [16 * (target + 8 * others)])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decoupled_is_kd_when_beta_is_what_the_teacher_leaves(temperature):
    teacher, student = pair()
    left = [1 - reference.softmax(t / temperature)[y] for t, y in zip(teacher, LABELS, strict=True)]
    value = reference.decoupled(teacher, student, LABELS, temperature, 1.0, np.array(left))
    close(value, reference.soft_targets(teacher, student, temperature))


def test_two_classes_leave_nothing_but_the_target():
    teacher, student = pair(5, 2)
    labels = [0, 1, 1, 0, 1]
    assert not np.any(reference.non_target_class_kd(teacher, student, labels))
    close(reference.decoupled(teacher, student, labels), reference.soft_targets(teacher, student, 4.0))


def test_non_target_part_ignores_the_target_logit():
    teacher, student = pair()
    moved = student.copy()
    moved[np.arange(5), LABELS] += draw(5)
    value = reference.non_target_class_kd(teacher, moved, LABELS)
    close(value, reference.non_target_class_kd(teacher, student, LABELS))


def test_decoupled_stays_finite_where_the_teacher_is_certain():
    values = reference.decoupled([[900.0, 0, 1], [900.0, 0, 1]], [[900.0, 0, 1], [0, 900.0, 1]], [0, 0], 1.0)
    assert values[0] == pytest.approx(0, abs=1e-12)
    assert np.isfinite(values).all()


def test_dist_by_hand():
    # Teacher rows (1/2, 1/4, 1/4) and (1/4, 1/2, 1/4); the student's are exchanged.
    # Centred (2, -1, -1) and (-1, 2, -1): rho = -1/2. Columns: -1, -1 and, with no spread, 0.
    teacher = np.concatenate([HALF_FIRST, HALF_SECOND])
    student = teacher[::-1]
    close(reference.dist(teacher, student, beta=1, gamma=0), [1.5, 1.5], atol=1e-6)
    close(reference.dist(teacher, student, beta=0, gamma=1), [5 / 3, 5 / 3], atol=1e-6)
    value = reference.dist(2 * teacher, 2 * student, 2.0, 3.0, 0.5)
    close(value, np.full(2, 4 * (3 * 1.5 + 0.5 * 5 / 3)), atol=1e-5)


def test_dist_rows_average_to_its_total():
    teacher, student = pair()
    for settings in ((1.0, 1.0, 1.0), (4.0, 2.0, 0.5)):
        value = reference.dist(teacher, student, *settings).mean()
        close(value, reference.dist_total(teacher, student, *settings))


def test_dist_of_one_example_has_no_columns():
    teacher, student = pair()
    alone = reference.dist(teacher[:1], student[:1])
    close(alone, reference.dist(teacher, student, gamma=0)[:1])


def test_dist_is_zero_for_affine_probabilities():
    probabilities = np.array([reference.softmax(row) for row in draw(6, 4)])
    student = np.log(0.3 * probabilities + 0.7 / 4)
    close(reference.dist(np.log(probabilities), student), 0, atol=1e-5)
    # A slope of its own in every row keeps the rows' part at zero, not the columns'.
    slopes = np.array([[0.1], [0.3], [0.9], [0.5], [0.7], [0.2]])
    student = np.log(slopes * probabilities + (1 - slopes) / 4)
    close(reference.dist(np.log(probabilities), student, gamma=0), 0, atol=1e-4)
    assert reference.dist(np.log(probabilities), student, beta=0).min() > 1e-3


def test_jsd_by_hand():
    # M = (3/8, 3/8, 1/4).
    half = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3)
    close(reference.generalised_jsd(HALF_FIRST, HALF_SECOND), [half])
    # beta 1/4: M = (5/16, 7/16, 1/4).
    to_mixture = 0.5 * math.log(8 / 5) + 0.25 * math.log(4 / 7)
    back = 0.25 * math.log(4 / 5) + 0.5 * math.log(8 / 7)
    close(reference.generalised_jsd(HALF_FIRST, HALF_SECOND, 0.25), [to_mixture / 4 + 3 * back / 4])


def test_jsd_ends_and_symmetry():
    teacher, student = pair()
    close(reference.generalised_jsd(teacher, student, 0), reference.soft_targets(teacher, student, 1.0))
    close(reference.generalised_jsd(teacher, student, 1), reference.soft_targets(student, teacher, 1.0))
    close(reference.generalised_jsd(teacher, student), reference.generalised_jsd(student, teacher))
    close(reference.generalised_jsd(teacher, student, 0.2), reference.generalised_jsd(student, teacher, 0.8))
    close(reference.generalised_jsd(teacher, teacher, 0.3), 0)
    assert reference.generalised_jsd(teacher, student).max() <= LOG2
    # The ends are the limits of JSD/beta and of JSD/(1 - beta).
    tiny = 1e-7
    near_zero = reference.generalised_jsd(teacher, student, tiny) / tiny
    close(near_zero, reference.soft_targets(teacher, student, 1.0), rtol=1e-3)
    near_one = reference.generalised_jsd(teacher, student, 1 - tiny) / tiny
    close(near_one, reference.soft_targets(student, teacher, 1.0), rtol=1e-3)


def test_jsd_of_sequences_has_no_temperature_factor():
    teacher, student = draw(2, 3, 4), draw(2, 3, 4, seed=1)
    values = reference.generalised_jsd(teacher, student, 0.5, 2.0)
    assert values.shape == (2, 3)
    close(values[1, 2], reference.generalised_jsd(teacher[1, 2][None] / 2, student[1, 2][None] / 2)[0])
    mask = np.array([[True, True, False], [False, False, True]])
    close(reference.masked_mean(values, mask), (values[0, 0] + values[0, 1] + values[1, 2]) / 3)


def test_mlkd_by_hand():
    # P = (1/2, 1/4, 1/4), Q = (1/4, 1/2, 1/4): PP' equal; P'P - Q'Q = [[3, 0, 1], [0, -3, -1], [1, -1, 0]]/16.
    kl = 0.5 * LOG2 - 0.25 * LOG2
    close(reference.mlkd(HALF_FIRST, HALF_SECOND, (1.0,)), [kl + 22 / 256 / 3])
    close(reference.mlkd(2 * HALF_FIRST, 2 * HALF_SECOND, (2.0,)), [4 * kl + 22 / 256 / 3])


def test_mlkd_rows_average_to_its_total():
    teacher, student = pair()
    total = 0.0
    for temperature in (2, 3, 4, 5, 6):
        p, q = (np.exp(z / temperature) / np.exp(z / temperature).sum(1, keepdims=True) for z in pair())
        total += temperature**2 * (p * np.log(p / q)).sum() / 5
        total += np.linalg.norm(p @ p.T - q @ q.T) ** 2 / 5 + np.linalg.norm(p.T @ p - q.T @ q) ** 2 / 4
    close(reference.mlkd(teacher, student).mean(), total)
    close(reference.mlkd(teacher, teacher), 0)


def test_mlkd_standardises_its_divergences_alone():
    teacher, student = pair()
    plain, standardised = (reference.mlkd(teacher, student, standardised=choice) for choice in (False, True))
    change = sum(
        reference.standardised_soft_targets(teacher, student, t) - reference.soft_targets(teacher, student, t)
        for t in (2.0, 3.0, 4.0, 5.0, 6.0)
    )
    close(standardised - plain, change)


def test_ctkd_temperature_and_reversal():
    assert reference.ctkd_temperature() == pytest.approx(1 + 20 / (1 + math.exp(-1)))
    assert reference.ctkd_temperature(0.0) == pytest.approx(11)
    assert reference.ctkd_temperature(-800.0) == pytest.approx(1)
    assert reference.ctkd_temperature(800.0) == pytest.approx(21)
    schedule = [reference.ctkd_reversal(epoch) for epoch in (0, 5, 10, 200)]
    close(schedule, [0, -0.5, -1, -1])
    assert reference.ctkd_reversal(2.5) == pytest.approx(-(1 - math.sqrt(0.5)) / 2)


def test_ctkd_differentiates_through_the_factor_too():
    teacher, student = pair()
    by_theta = reference.gradient(lambda theta: reference.ctkd(teacher, student, float(theta)).mean(), 1.0)
    sigma = 1 / (1 + math.exp(-1))
    by_temperature = reference.gradient(
        lambda t: reference.soft_targets(teacher, student, float(t)).mean(), 1 + 20 * sigma
    )
    close(by_theta, 20 * sigma * (1 - sigma) * by_temperature, rtol=1e-5)


# Features.


def maps(seed=0, height=4, width=4, channels=3, count=2):
    return draw(count, height, width, channels, seed=seed)


def test_average_pool():
    row = np.arange(1.0, 6).reshape(1, 5, 1)
    close(reference.average_pool(row, 1, 3).ravel(), [1.5, 3, 4.5])  # overlapping: [0,2) [1,4) [3,5)
    close(reference.average_pool(row.swapaxes(0, 1), 3, 1).ravel(), [1.5, 3, 4.5])
    close(reference.average_pool(row, 1, 5), row)
    square = maps()[0]
    pooled = reference.average_pool(square, 2, 2)
    close(pooled[1, 0], square[2:, :2].mean(axis=(0, 1)))
    close(pooled.mean(axis=(0, 1)), square.mean(axis=(0, 1)))


def test_hint_by_hand():
    close(reference.hint(np.zeros((2, 1, 2, 1)), [[[[1.0], [3.0]]], [[[0.0], [2.0]]]]), [5, 2])


def test_attention_transfer_by_hand():
    # Two places and two channels: squares summed over c (9, 16) -> (9, 16)/sqrt(337); (1, 0).
    teacher, student = np.array([[[[3.0, 0.0], [0.0, 4.0]]]]), np.array([[[[2.0, 2.0], [0.0, 0.0]]]])
    norm = math.sqrt(337)
    squares = (9 / norm - 1) ** 2 + (16 / norm) ** 2
    close(reference.attention_transfer(teacher, student), [squares / 2])
    close(reference.attention_transfer(teacher, student, paper=True), [math.sqrt(squares)])
    norm = math.sqrt(27**2 + 64**2)
    close(reference.attention_transfer(-teacher, student, 3), [((27 / norm - 1) ** 2 + (64 / norm) ** 2) / 2])


@pytest.mark.parametrize("paper", [False, True])
def test_attention_transfer_sees_where_and_not_how_much(paper):
    teacher, student = maps(), maps(1)
    value = reference.attention_transfer(teacher, student, paper=paper)
    assert value.min() > 0
    close(reference.attention_transfer(7 * teacher, -0.1 * student, paper=paper), value)
    channels = rotation(3)  # keeps each place's sum of squares
    close(reference.attention_transfer(teacher, student @ channels, paper=paper), value)
    close(reference.attention_transfer(teacher, 3 * teacher[..., [2, 0, 1]], paper=paper), 0)
    close(reference.attention_transfer(teacher, np.concatenate([teacher, teacher], -1), paper=paper), 0)


def test_attention_transfer_pools_features_of_the_larger_map():
    teacher, student = maps(height=4, width=4), maps(1, height=2, width=2, channels=5)
    pooled = teacher.reshape(2, 2, 2, 2, 2, 3).mean(axis=(2, 4))
    for left, right, small in ((teacher, student, pooled), (student, teacher, student)):
        partner = student if small is pooled else pooled
        close(reference.attention_transfer(left, right), reference.attention_transfer(small, partner))


def test_unit():
    close(reference.unit([3e-9, -4e-9]), [0.6, -0.8])
    close(reference.unit([1e-13]), [0.1])
    assert not np.any(reference.unit([0.0, 0.0]))


def test_a_map_without_activity_is_no_trouble():
    close(reference.attention_transfer(np.zeros((1, 2, 2, 3)), np.ones((1, 2, 2, 3))), [0.25])
    close(reference.nst(np.zeros((1, 2, 2, 3)), np.ones((1, 2, 2, 3))), [1])


def test_vid_by_hand():
    close(reference.vid_variance([0.0, 3.0]), [LOG2 + 1e-5, math.log(1 + math.exp(3)) + 1e-5])
    a = reference.vid_initial(2)
    close(reference.vid_variance(a), [5, 5])
    teacher, mu = np.array([[[[1.0, 2.0]]], [[[0.0, 0.0]]]]), np.array([[[[2.0, 4.0]]], [[[0.0, 0.0]]]])
    half_log = 0.5 * math.log(5)
    close(reference.vid(teacher, mu, a), [0.5 * (1 + 4) / 5 / 2 + half_log, half_log])


def test_vid_is_least_at_the_mean_and_at_the_variance_of_the_error():
    teacher, mu = draw(3, 2, 2, 2), draw(3, 2, 2, 2, seed=1)
    error = ((mu - teacher) ** 2).mean(axis=(0, 1, 2))
    a = np.log(np.exp(error - 1e-5) - 1)
    close(reference.gradient(lambda x: reference.vid(teacher, mu, x).mean(), a), 0, atol=1e-8)
    by_mean = reference.gradient(lambda m: reference.vid(teacher, m, a).mean(), teacher)
    close(by_mean, 0, atol=1e-8)


def test_nst_by_hand():
    # One channel each over two places: k(t,t) = k(s,s) = 1, k(s,t) = (0.6 + 0.8)^2 / 2 = 0.98.
    teacher, student = np.array([[[[3.0], [4.0]]]]), np.array([[[[2.0], [2.0]]]])
    close(reference.nst(teacher, student), [2 - 2 * 0.98])
    # Two orthogonal channels against one: mean k(t,t) = 1/2, mean k(s,t) = (1 + 0)/2.
    close(reference.nst([[[[1.0, 0.0], [0.0, 1.0]]]], [[[[1.0], [0.0]]]]), [0.5 + 1 - 1])


def test_nst_compares_sets_of_channel_maps():
    teacher, student = maps(), maps(1, channels=5)
    value = reference.nst(teacher, student)
    assert value.min() > 0
    close(reference.nst(teacher, teacher), 0)
    close(reference.nst(teacher, 3 * teacher[..., [2, 0, 1]]), 0)
    close(reference.nst(teacher, np.concatenate([teacher, -teacher], -1)), 0)
    close(reference.nst(teacher * [0.1, -4, 2], student), value)
    close(reference.nst(student, teacher), value)


def test_stages_are_summed():
    stages = [maps(), maps(2)], [maps(1), maps(3)]
    for method in (reference.nst, reference.attention_transfer):
        total = method(stages[0][0], stages[1][0]) + method(stages[0][1], stages[1][1])
        close(reference.over_stages(method, *stages), total)


def test_ofd_margin_by_numeric_integration():
    beta, gamma = np.array([0.0, 0.5, -1.3, 2.0, 0.3]), np.array([1.0, 0.7, -2.0, 1.0, 0.2])
    for value, mean, std in zip(reference.ofd_margin(beta, gamma), beta, abs(gamma), strict=True):
        x = np.linspace(-20 * std, 0, 400_001)
        density = np.exp(-(((x - mean) / std) ** 2) / 2)
        assert value == pytest.approx(np.trapezoid(x * density, x) / np.trapezoid(density, x), rel=1e-7)
    assert reference.ofd_margin([0.0], [1.0])[0] == pytest.approx(-math.sqrt(2 / math.pi))


def test_ofd_margin_where_hardly_anything_is_negative():
    # Phi(-3.09) is just over 0.001, Phi(-3.1) just under.
    just_over, just_under = reference.ofd_margin([3.09, 3.1], [1.0, -1.0])
    x = np.linspace(-20, 0, 400_001)
    density = np.exp(-((x - 3.09) ** 2) / 2)
    assert just_over == pytest.approx(np.trapezoid(x * density, x) / np.trapezoid(density, x), rel=1e-6)
    assert just_under == -3
    assert reference.ofd_margin([3.1], [1.0], floor=0)[0] == pytest.approx(just_over, rel=1e-2)
    close(reference.ofd_margin([-2.0, 0.0, 2.0], [0.0, 0.0, 0.0]), [-2, 0, 0])


def test_ofd_by_hand():
    # Margin -1; each line a case: teacher, student, what counts.
    cases = [
        (2.0, 1.0, 1.0),  # t > 0: both directions count
        (2.0, 4.0, 4.0),
        (-0.5, 0.5, 1.0),  # -1 < t < 0: only a student above
        (-0.5, -0.7, 0.0),
        (-3.0, 1.0, 4.0),  # t below the margin: the margin is the target
        (-3.0, -0.5, 0.25),
        (-3.0, -2.0, 0.0),
    ]
    for teacher, student, expected in cases:
        value = reference.ofd([[[[[teacher]]]]], [[[[[student]]]]], [[-1.0]])
        close(value, [expected / 1000])
    teacher, student, expected = (np.array(column) for column in zip(*cases, strict=True))
    stage = teacher.reshape(1, 7, 1, 1), student.reshape(1, 7, 1, 1)
    value = reference.ofd([stage[0]] * 3, [stage[1], stage[0] - 1, stage[1]], [[-1.0]] * 3)
    first = expected.sum() / 4 + 2 / 2 + expected.sum()  # a student one below misses by one where t > 0
    close(value, [first / 1000])
    nothing = np.zeros_like(stage[0])  # against a student of -9, and a margin that it never passes
    value = reference.ofd([stage[0], nothing], [stage[1], nothing - 9], [[-1.0]] * 2)
    close(value, [expected.sum() / 2 / 1000])


def test_ofd_margins_belong_to_channels():
    teacher, student = np.full((2, 1, 1, 2), -9.0), np.zeros((2, 1, 1, 2))
    close(reference.ofd([teacher], [student], [[-1.0, -3.0]]), [0.01, 0.01])


# Relations.


def test_similarity_preserving_by_hand():
    # G_t rows: (1, 0), (0, 1); G_s rows: (1, 1)/sqrt 2 twice.
    value = reference.similarity_preserving([[1.0, 0.0], [0.0, 5.0]], [[1.0], [1.0]])
    close(value, np.full(2, ((1 - math.sqrt(0.5)) ** 2 + 0.5) / 2))


def test_similarity_preserving_is_the_frobenius_norm():
    teacher, student = maps(count=5), maps(1, channels=2, count=5)
    grams = []
    for f in (teacher, student):
        g = f.reshape(5, -1) @ f.reshape(5, -1).T
        grams.append(g / np.linalg.norm(g, axis=1, keepdims=True))
    value = reference.similarity_preserving(teacher, student)
    close(value.mean(), np.linalg.norm(grams[0] - grams[1]) ** 2 / 25)
    close(reference.similarity_preserving(teacher, teacher), 0)
    close(reference.similarity_preserving(teacher, -3 * student), value)
    close(reference.similarity_preserving(draw(5, 4), draw(5, 4) @ rotation(4)), 0)


def test_rkd_distance_by_hand():
    # Distances 1, 2, 3 (mean 2) against 1, 1, 2 (mean 4/3).
    teacher, student = [[0.0], [1.0], [3.0]], [[0.0], [1.0], [2.0]]
    close(reference.distances(teacher), [[0, 0.5, 1.5], [0.5, 0, 1], [1.5, 1, 0]])
    close(reference.distances(student), [[0, 0.75, 1.5], [0.75, 0, 0.75], [1.5, 0.75, 0]])
    close(reference.rkd_distance(teacher, student), [1 / 96, 1 / 48, 1 / 96])


def test_smooth_l1():
    close([reference.smooth_l1(d) for d in (0, 0.5, -0.5, 1, 1.5, -3)], [0, 0.125, 0.125, 0.5, 1, 2.5])


@pytest.mark.parametrize("method", [reference.rkd_distance, reference.rkd_angle, reference.rkd])
def test_rkd_ignores_where_how_large_and_how_turned(method):
    teacher, student = draw(6, 3), draw(6, 4, seed=1)
    value = method(teacher, student)
    assert value.min() > 0
    close(method(teacher, 2.5 * student @ rotation(4) + draw(1, 4, seed=2)), value)
    close(method(0.2 * teacher @ rotation(3) - 7, student), value)
    close(method(teacher, 3 * teacher @ rotation(3) + 1), 0)
    close(method(student, teacher), value)  # the loss is even in its difference
    order = [3, 0, 5, 1, 2, 4]
    close(method(teacher[order], student[order]), value[order])


def test_rkd_of_duplicates_and_of_one_example():
    # Two equal points are 1e-6 apart, which is a positive entry: mean (4 + 2e-6)/6.
    mean = (4 + 2e-6) / 6
    d = reference.distances([[0.0], [0.0], [1.0]])
    close(d, np.array([[0, 1e-6, 1], [1e-6, 0, 1], [1, 1, 0]]) / mean)
    close(reference.rkd([[1.0, 2.0]], [[3.0, 5.0]]), [0])


def test_rkd_angle_by_hand():
    # A right angle at the origin between unit legs, and 45 degrees at the others.
    a = reference.angles([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    close(a[0], [[0, 0, 0], [0, 1, 0], [0, 0, 1]])
    close(a[1, 0, 2], math.sqrt(0.5))
    close(a[2, 1, 0], math.sqrt(0.5))
    # An equilateral triangle has 1/2 everywhere: two entries differ at each vertex.
    equilateral = [[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]]
    acute = (math.sqrt(0.5) - 0.5) ** 2 / 9
    value = reference.rkd_angle([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], equilateral)
    close(value, [0.25 / 9, acute, acute])


def test_pkt_by_hand():
    # K_t = (2/3, 1/3; 1/3, 2/3), K_s = (1/2, 1/2; 1/2, 1/2).
    value = reference.pkt([[1.0, 0.0], [0.0, 3.0]], [[1.0], [2.0]])
    close(value, np.full(2, (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)) / 2), atol=1e-6)


def test_pkt_of_opposites_is_held_by_its_epsilon():
    # K_t = (1/2, 1/2), K_s = (1, 0); long vectors, whose own epsilon is too small to matter.
    value = reference.pkt([[1e6], [2e6]], [[1e6], [-1e6]])
    close(value, np.full(2, (0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-7)) / 2), rtol=1e-5)


def test_pkt_compares_cosines():
    teacher, student = draw(6, 3), draw(6, 4, seed=1)
    value = reference.pkt(teacher, student)
    assert value.mean() > 0
    close(reference.pkt(teacher, teacher), 0)
    lengths = np.linspace(1, 9, 6)[:, None]
    close(reference.pkt(teacher, lengths * student @ rotation(4)), value, rtol=1e-4)
    assert abs(reference.pkt(teacher, student) - reference.pkt(student, teacher)).max() > 1e-6
    assert np.isfinite(reference.pkt(np.zeros((2, 3)), [[1.0], [-1.0]])).all()


def test_crd_by_hand():
    # Three negatives of ten: noise 0.3. Scores e^0 = 1 and e^log 2 = 2 over Z = 10.
    tau = 0.5
    anchors = [[1.0, 0.0]]
    rows = [[[tau * LOG2, 3.0], [0.0, 1.0], [0.0, -1.0], [tau * LOG3, 0.0]]]
    close(reference.crd_scores(anchors, rows, tau), [[2, 1, 1, 3]])
    assert reference.crd_constant(anchors, rows, 10, tau) == pytest.approx(17.5)
    expected = -math.log(0.2 / 0.5) - 2 * math.log(0.3 / 0.4) - math.log(0.3 / 0.6)
    close(reference.crd_side(anchors, rows, 10, 10, tau), [expected], atol=3e-6)


def test_crd_sides_meet_the_other_bank():
    units = [np.array([reference.unit(row) for row in draw(3, 4, seed=seed)]) for seed in range(2)]
    banks = [
        np.array([[reference.unit(row) for row in own] for own in draw(3, 6, 4, seed=s)]) for s in (2, 3)
    ]
    z_student = reference.crd_constant(units[1], banks[0], 50, 0.3)
    z_teacher = reference.crd_constant(units[0], banks[1], 50, 0.3)
    value = reference.crd(*units, *banks, z_student, z_teacher, 50, 0.3)
    assert value.shape == (3,)
    # The same, written as the log-odds of a logistic classifier.
    expected = np.zeros(3)
    for anchors, bank in ((units[1], banks[0]), (units[0], banks[1])):
        scores = np.exp(np.einsum("bd,bkd->bk", anchors, bank) / 0.3)
        odds = scores / (scores.mean() * 50) / (5 / 50)
        expected += np.log1p(1 / odds[:, 0]) + np.log1p(odds[:, 1:]).sum(axis=1)
    close(value, expected, rtol=1e-5)


def test_crd_update():
    close(reference.crd_update([[1.0, 0.0]], [[0.0, 1.0]]), [[math.sqrt(0.5), math.sqrt(0.5)]])
    close(reference.crd_update([[1.0, 0.0]], [[0.0, 1.0]], 0.75), np.array([[3.0, 1.0]]) / math.sqrt(10))


# Schemes.


def test_several_teachers_by_hand():
    teachers = [np.log([[1.0, 3.0]]), np.log([[3.0, 1.0]])]
    student = np.log([[1.0, 3.0]])
    other = 0.75 * LOG3 - 0.25 * LOG3
    close(reference.sum_of_teachers(teachers, student, 1.0), [other])
    to_uniform = 0.5 * math.log(4 / 3)  # KL((1/2, 1/2) to (1/4, 3/4))
    close(reference.mean_logits(teachers, student, 1.0), [to_uniform])
    close(reference.mean_probabilities(teachers, student, 1.0), [to_uniform])


def test_several_teachers_differ_in_value_and_the_sum_follows_the_mean_probability():
    teachers, student = draw(3, 5, 4, scale=3.0), pair()[1]
    methods = reference.sum_of_teachers, reference.mean_probabilities, reference.mean_logits
    by_sum, by_probabilities, by_logits = (
        reference.gradient(lambda s, method=method: method(teachers, s).mean(), student) for method in methods
    )
    close(by_sum, 3 * by_probabilities, rtol=1e-6, atol=1e-8)
    assert abs(by_probabilities - by_logits).max() > 1e-3
    # What the sum adds to 3 KL to the mean probability does not depend on the student.
    gap = methods[0](teachers, student) - 3 * methods[1](teachers, student)
    close(gap, methods[0](teachers, student[::-1]) - 3 * methods[1](teachers, student[::-1]))
    assert gap.min() > 0


def test_equal_teachers_are_one():
    teacher, student = pair()
    value = reference.soft_targets(teacher, student, 4.0)
    close(reference.sum_of_teachers([teacher] * 3, student), 3 * value)
    close(reference.mean_logits([teacher] * 3, student), value)
    close(reference.mean_probabilities([teacher] * 3, student), value)


def test_mutual_learning_of_two_by_hand():
    networks = [HALF_FIRST, HALF_SECOND]
    close(reference.mutual_divergence(networks), [[0.25 * LOG2], [0.25 * LOG2]])
    close(reference.mutual_learning(networks, [0]), [[1.25 * LOG2], [2.25 * LOG2]])


def test_mutual_learning_pulls_each_network_to_the_label_and_to_its_peers_mean():
    networks = draw(3, 5, 4, scale=2.0)
    close(reference.mutual_divergence([networks[0]] * 3), 0)
    p = np.exp(networks) / np.exp(networks).sum(axis=-1, keepdims=True)
    for i in range(3):
        peers = [p[j] for j in range(3) if j != i]

        def own(logits, i=i):  # the peers stay as they are
            return reference.mutual_learning([*networks[:i], logits, *networks[i + 1 :]], LABELS)[i].sum()

        expected = (p[i] - np.eye(4)[LABELS]) + (p[i] - np.mean(peers, axis=0))
        close(reference.gradient(own, networks[i]), expected, atol=1e-7)
