"""Faults put into the privacy code by hand, each with the tests of its room that must find it."""

import dataclasses
import hashlib


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        file: path below `keras_dpvit`.
        old: text that occurs once in the file.
        new: what it is replaced with.
        tests: files or node ids below `tests`.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def key(self) -> str:
        """The same for the same texts and tests."""
        parts = "\0".join((self.file, self.old, self.new, *self.tests))
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """File and texts, in one line."""
        texts = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.file}: " + " -> ".join(texts)


def _of(file: str, tests: str, *faults: tuple[str, str, str]) -> list[Mutation]:
    """Mutations of a file by (old, new, test); tests are ids in one file, or files of their own."""
    return [
        Mutation(file, old, new, tuple(t if "/" in t else f"{tests}::{t}" for t in test.split()))
        for old, new, test in faults
    ]


_CERTIFIED = "training/test_certified_step.py"
_BATCHES = f"{_CERTIFIED}::test_memory_chunks_change_no_result"
_ONE_BY_ONE = f"{_CERTIFIED}::test_a_step_without_noise_is_the_sum_clipped_one_by_one[0.05-False]"
_MOVES = "training/test_neighbours.py::test_one_record_moves_the_sum_by_at_most_the_declared_"
_MOVES += "sensitivity"
_CAP = "test_no_record_passes_the_cap_whatever_its_norms"
_MEDIAN = "test_median_clipping_is_equations_9_and_10"
_HAND = "test_epsilon_by_hand_by_both_accountants"
_DOUBLE = "test_microbatches_double_the_sensitivity_and_so_the_noise_for_the_same_cost"
_GAUSSIAN = "test_sum_and_count_together_are_one_gaussian"
_TF_PRIVACY = "privacy/test_plan_and_ledger.py::test_the_sensitivity_follows_tf_privacys_update"
_PUBLISHED = (
    "privacy/test_schedules_and_mechanism.py::"
    "test_a_plan_as_published_costs_infinity_and_says_what_others_would_print"
)
_METRICS = (
    "training/test_private_metrics.py::"
    "test_all_releases_of_a_step_are_one_gaussian_of_the_plans_multiplier"
)

_SENSITIVITY = _of(
    "privacy/sensitivity.py",
    "privacy/test_clipping_and_sampling.py",
    ("cap * (1.0 - ROUNDING_MARGIN)", "cap * (1.0 + 1e-2)", _CAP),
    (
        "norms = tf.norm(factors * layer_norms, axis=-1)",
        "norms = tf.reduce_max(factors * layer_norms, axis=-1)",
        _CAP,
    ),
    (
        "norms = tf.norm(factors * layer_norms, axis=-1)",
        "norms = tf.reduce_sum((factors * layer_norms) ** 2, axis=-1)",
        "test_records_below_the_cap_are_left_alone",
    ),
    ("tf.norm(factors * layer_norms", "tf.norm(layer_norms", _ONE_BY_ONE),
    (
        "tf.minimum(tf.math.divide_no_nan(cap * (1.0 - ROUNDING_MARGIN), norms), 1.0)",
        "tf.math.divide_no_nan(cap * (1.0 - ROUNDING_MARGIN), norms)",
        "test_records_below_the_cap_are_left_alone",
    ),
    ("tf.where(usable[:, None], factors * scale[:, None], 0.0)", "factors * scale[:, None]", _CAP),
    (
        "usable = tf.math.is_finite(norms)",
        "usable = tf.ones_like(norms, tf.bool)",
        _CAP,
    ),
    (
        "tf.cast(norms <= state, tf.float32) - 0.5",
        "tf.cast(norms <= state, tf.float32)",
        f"{_MOVES}[median]",
    ),
    (
        "tf.cast(norms <= state, tf.float32) - 0.5",
        "tf.cast(norms >= state, tf.float32) - 0.5",
        f"{_CERTIFIED}::test_the_tracked_norm_goes_to_the_median",
    ),
    ("tf.where(taking_part, recentred, 0.0)", "recentred", _BATCHES),
    (
        'if self.combine == "max" else state + self.floor',
        'if self.combine == "max" else state',
        "privacy/test_plan_and_ledger.py::test_caps",
    ),
    (
        "stddev = max(batch_size / 20, noise_multiplier)",
        "stddev = min(batch_size / 20, noise_multiplier)",
        "privacy/test_plan_and_ledger.py::test_small_batches_still_have_a_split",
    ),
    (
        "(2 * stddev) ** -2) ** -0.5, stddev",
        "stddev**-2) ** -0.5, stddev",
        "privacy/test_plan_and_ledger.py::"
        "test_noise_of_sum_and_count_spends_the_multiplier_and_no_more",
    ),
    (
        ") ** -2) ** -0.5, stddev",
        ") ** -2) ** -0.5, stddev / 2",
        f"privacy/test_schedules_and_mechanism.py::{_GAUSSIAN}",
    ),
    ("(below_count + noise, global_state)", "(below_count, global_state)", _TF_PRIVACY),
    (
        "return state + math.inf",
        "return state + 1.0",
        "training/test_neighbours.py::"
        "test_a_plan_as_published_lets_one_record_move_the_sum_without_bound",
    ),
    ("    certified = False", "    certified = True", _PUBLISHED),
    (
        "return tf.sqrt(below_count)",
        "return below_count",
        "privacy/test_plan_and_ledger.py::"
        "test_noise_as_published_is_that_of_the_thresholds_squared_sum",
    ),
)

_CLIPPING = _of(
    "privacy/clipping.py",
    "privacy/test_clipping_and_sampling.py",
    ("ordered[:, (groups - 1) // 2]", "ordered[:, groups // 2]", _MEDIAN),
    ("return 0.5 * (ordered", "return 1.0 * (ordered", _MEDIAN),
    (
        "tf.minimum(tf.math.divide_no_nan(median[:, None], norms), 1.0)",
        "tf.math.divide_no_nan(median[:, None], norms)",
        _MEDIAN,
    ),
    (
        "thresholds = tf.cast(clips, norms.dtype)",
        "thresholds = norms",
        "test_each_kind_of_factor_by_hand",
    ),
    (
        "tf.minimum(tf.math.divide_no_nan(thresholds, norms), 1.0)",
        "tf.math.divide_no_nan(thresholds, norms)",
        "test_each_kind_of_factor_by_hand",
    ),
    ("norms.shape[-1] ** -0.5 /", "norms.shape[-1] ** -1.0 /", "test_each_kind_of_factor_by_hand"),
    (
        "whole = tf.norm(norms, axis=-1, keepdims=True)",
        "whole = tf.reduce_sum(norms, axis=-1, keepdims=True)",
        "test_each_kind_of_factor_by_hand",
    ),
    ("(whole + self.gamma)", "(whole - self.gamma)", "test_each_kind_of_factor_by_hand"),
)

_MECHANISM = _of(
    "privacy/mechanism.py",
    "privacy/test_schedules_and_mechanism.py",
    ("return 2 if self.records_share_units", "return 1 if self.records_share_units", _DOUBLE),
    ("self.noise_multiplier / self.units_moved", "self.noise_multiplier", _DOUBLE),
    ("return self.units_moved * self.rule.cap(state)", "return self.rule.cap(state)", _DOUBLE),
    ("self.split_noise()[0] * self.rule", "self.split()[0] ** 2 * self.rule", _DOUBLE),
    ("if self.rule.certified else 0.0", "", "test_the_event_of_a_step_is_the_mechanisms"),
    ("self.sampling_probability, 1)", "1.0, 1)", "test_the_event_of_a_step_is_the_mechanisms"),
    ("rest /= math.sqrt", "rest *= math.sqrt", _METRICS),
    ("METRICS_STEP = math.sqrt(0.5)", "METRICS_STEP = 0.5", "training/test_private_metrics.py"),
    ("return self.units_moved * METRICS_STEP", "return METRICS_STEP", _METRICS),
    ("metrics_noise_ratio**-2", "metrics_noise_ratio**-1", _METRICS),
)

_RANDOMNESS = _of(
    "privacy/randomness.py",
    "privacy/test_clipping_and_sampling.py",
    (
        "keras_dpvit/{purpose}/{seed}",
        "keras_dpvit/{seed}",
        "test_keys_come_from_the_operating_system_unless_seeded",
    ),
    (
        "return secrets.token_bytes(KEY_BYTES)",
        "return bytes(KEY_BYTES)",
        "test_keys_come_from_the_operating_system_unless_seeded",
    ),
    (
        'key + step.to_bytes(8, "big")',
        "key",
        "test_samples_depend_on_key_and_step_alone",
    ),
)

_SAMPLING = _of(
    "privacy/sampling.py",
    "privacy/test_samplers.py",
    (
        "generator.random(num_records) < self.sampling_probability",
        "generator.random(num_records) < self.sampling_probability**2",
        "privacy/test_clipping_and_sampling.py::test_poisson_sampling_draws_each_record_by_itself",
    ),
    (
        "generator.random(num_records) < self",
        "generator.random(num_records) > self",
        "privacy/test_clipping_and_sampling.py::test_poisson_sampling_draws_each_record_by_itself",
    ),
    (
        "generator.random(num_records) <",
        "generator.random() * np.ones(num_records) <",
        "privacy/test_clipping_and_sampling.py::test_poisson_sampling_draws_each_record_by_itself",
    ),
    (
        "randomness.step_key(self._key, index)",
        "randomness.step_key(self._key, step)",
        "test_a_pass_has_each_record_once_at_most_in_batches_of_the_size",
    ),
    (
        "randomness.step_key(self._key, index)",
        "randomness.step_key(self._key, 0)",
        "test_passes_differ",
    ),
    (
        "divmod(step, batches)",
        "divmod(step + 1, batches)",
        "test_a_pass_has_each_record_once_at_most_in_batches_of_the_size",
    ),
    (
        "order = generator.permutation(num_records)",
        "order = np.arange(num_records)",
        "test_every_record_comes_equally_often_in_every_place",
    ),
    (
        "generator.integers(num_parts, size=num_records)",
        "np.arange(num_records) % num_parts",
        "privacy/test_clipping_and_sampling.py::test_parts_are_drawn_record_by_record",
    ),
)

_SCHEDULES = _of(
    "privacy/noise_schedules.py",
    "privacy/test_schedules_and_mechanism.py",
    ("- max(begin, first)", "- begin", "test_parts_of_a_run_are_slices_of_the_list_of_its_steps"),
    ("begin += count", "begin = count", "test_parts_of_a_run_are_slices_of_the_list_of_its_steps"),
    (
        "math.ceil(boundary * steps)",
        "math.floor(boundary * steps)",
        "test_each_schedule_changes_where_it_says",
    ),
    ("/ (stairs - 1)", "/ stairs", "test_each_schedule_changes_where_it_says"),
)

_ACCOUNTING = _of(
    "privacy/accounting.py",
    "privacy/test_plan_and_ledger.py",
    ("GaussianDpEvent(noise_multiplier)", "GaussianDpEvent(noise_multiplier**2)", _HAND),
    ("if sampling_probability < 1:", "if sampling_probability < 0:", _HAND),
    ("SampledDpEvent(sampling_probability,", "SampledDpEvent(sampling_probability**2,", _HAND),
    ("SelfComposedDpEvent(release, steps)", "SelfComposedDpEvent(release, steps + 1)", _HAND),
    (
        "if noise_multiplier == 0:",
        "if noise_multiplier < 0:",
        "test_no_noise_has_infinite_epsilon_and_no_steps_none",
    ),
    ("compute_epsilon(orders, rdp, delta)", "compute_delta(orders, rdp, delta)", _HAND),
    ("np.array(DEFAULT_RDP_ORDERS)", "np.array(DEFAULT_RDP_ORDERS)[::-1]", _HAND),
    (
        "if not 0 <= number <= most",
        "if not number <= most",
        "privacy/test_numbers.py::test_an_accountant_that_fails_is_not_believed",
    ),
    (
        "if np.isnan(rdp).any():",
        "if False:",
        "privacy/test_numbers.py::test_an_accountant_that_fails_is_not_believed",
    ),
    (
        "compose(event).get_delta(epsilon)",
        "compose(event).get_epsilon(epsilon)",
        "privacy/test_schedules_and_mechanism.py::test_delta_and_epsilon_are_inverses",
    ),
    (
        "RepeatAndSelectDpEvent(event, mean, shape)",
        "RepeatAndSelectDpEvent(event, 1.0, shape)",
        "privacy/test_private_selection.py::test_the_choice_costs_what_dp_accounting_says",
    ),
)

_ENTRIES = _of(
    "privacy/ledger_entries.py",
    "privacy/test_schedules_and_mechanism.py",
    (
        "return noise_multiplier, 1.0, self.passes",
        "return noise_multiplier, self.sampling_probability, self.passes",
        "test_a_pass_over_batches_of_fixed_size_costs_a_release_unamplified",
    ),
    (
        "return noise_multiplier, 1.0, self.passes",
        "return noise_multiplier, 1.0, 1",
        "test_a_pass_over_batches_of_fixed_size_costs_a_release_unamplified",
    ),
    (
        "noise_multiplier = self.noise_multiplier if self.certified else 0.0",
        "noise_multiplier = self.noise_multiplier",
        _PUBLISHED,
    ),
    (
        "= steps * accounting.rdp_of_step(",
        "= accounting.rdp_of_step(",
        f"privacy/test_plan_and_ledger.py::{_HAND}",
    ),
    (
        "math.ceil((missed + steps) / each)",
        "math.ceil(steps / each)",
        "privacy/test_releases_and_curves.py::"
        "test_part_of_a_shuffled_stretch_never_counts_too_few_passes",
    ),
    (
        "else bool(cost[2])",
        "else False",
        "privacy/test_numbers.py::test_what_was_released_never_costs_nothing",
    ),
)

_LEDGER = _of(
    "privacy/ledger.py",
    "privacy/test_releases_and_curves.py",
    (
        "return max((part.epsilon(delta, accountant) for part in self.parts), default=0.0)",
        "return min((part.epsilon(delta, accountant) for part in self.parts), default=0.0)",
        "privacy/test_plan_and_ledger.py::"
        "test_shared_members_compose_and_disjoint_ones_cost_the_larger",
    ),
    (
        "together = PrivacyLedger(_distinct(entries))",
        "return ParallelLedger(tuple(ledgers))",
        "privacy/test_plan_and_ledger.py::"
        "test_shared_members_compose_and_disjoint_ones_cost_the_larger",
    ),
    (
        "rdp = np.sum([",
        "rdp = np.max([",
        "privacy/test_plan_and_ledger.py::"
        "test_shared_members_compose_and_disjoint_ones_cost_the_larger",
    ),
    (
        " if entry.release_id else str(index)",
        "",
        "test_equal_releases_without_an_id_all_count",
    ),
    (
        "key = json.dumps(entry.to_dict(), sort_keys=True) if entry.release_id else str(index)",
        "key = entry.release_id or str(index)",
        "test_what_may_be_another_release_counts",
    ),
    (
        "together = PrivacyLedger(_distinct(entries))",
        "together = PrivacyLedger(tuple(entries))",
        "test_a_start_that_members_share_counts_once",
    ),
    (
        "return max(epsilon, _LEAST_EPSILON) if any(map(is_release, costs)) else epsilon",
        "return epsilon",
        "privacy/test_numbers.py::test_what_was_released_never_costs_nothing",
    ),
    (
        'any(entry.sampling == "fixed_size"',
        'all(entry.sampling == "fixed_size"',
        "privacy/test_schedules_and_mechanism.py::test_adjacency_is_that_of_the_weakest_sampling",
    ),
    (
        'if a == "rdp" or not selections(ledger))',
        ")",
        "privacy/test_private_selection.py::test_pld_is_not_available_for_a_choice",
    ),
    (
        "return max((part.delta(epsilon, accountant) for part in self.parts), default=0.0)",
        "return min((part.delta(epsilon, accountant) for part in self.parts), default=0.0)",
        "privacy/test_plan_and_ledger.py",
    ),
)

_PLAN = _of(
    "privacy/plan.py",
    "privacy/test_schedules_and_mechanism.py",
    (
        "return self.batch_size / self.num_examples",
        "return (self.batch_size / self.num_examples) ** 2",
        "privacy/test_plan_and_ledger.py::test_epsilon_is_that_of_tf_privacy",
    ),
    ("self.batch_size // self.microbatch_size", "self.batch_size", _DOUBLE),
    (
        'self.sampling_probability if self.sampling == "poisson" else 1.0,',
        "self.sampling_probability,",
        "test_the_mechanism_of_a_step_is_what_the_ledger_enters",
    ),
    (
        "noise_multiplier=self.noise_multiplier * factor,",
        "noise_multiplier=self.noise_multiplier,",
        "test_a_scheduled_run_costs_its_steps_one_by_one",
    ),
    (
        " / plan.mechanism_at(1.0).units_moved",
        "",
        "test_calibration_meets_its_target_for_every_kind_of_plan",
    ),
    (
        "SelfComposedDpEvent(once, compositions)",
        "SelfComposedDpEvent(once, 1)",
        "test_calibration_meets_its_target_for_every_kind_of_plan "
        "privacy/test_plan_and_ledger.py::test_calibration_never_overshoots_and_wastes_little",
    ),
    ("certified=self.sensitivity.certified,", "certified=True,", _PUBLISHED),
    (
        "math.ceil(last / each) - first_step // each",
        "math.ceil(steps / each)",
        "test_no_pass_that_was_touched_goes_uncounted",
    ),
    (
        "self.mechanism_at(factor).event_noise_multiplier,",
        "self.noise_multiplier * factor,",
        _DOUBLE,
    ),
)

_WORDS = _of(
    "privacy/statement.py",
    "privacy/test_plan_and_ledger.py",
    (
        "math.ceil(epsilon * 1000 - 1e-9) / 1000",
        "math.floor(epsilon * 1000) / 1000",
        "test_a_printed_epsilon_is_still_a_bound",
    ),
    (
        "return list(dict.fromkeys([*lines, *standing]))",
        "return list(dict.fromkeys(standing))",
        "test_statement_says_what_was_done_and_what_was_not",
    ),
)

_TUNING = _of(
    "privacy/private_selection.py",
    "privacy/test_private_selection.py",
    ("probability *= ratio(number)", "pass", "test_numbers_of_runs_follow_their_distribution"),
    ("going_on * (k + shape) / (k + 1)", "going_on * k / (k + 1)", "test_numbers_of_runs_follow_"
     "their_distribution"),
    ("mean_at(middle) > mean else", "mean_at(middle) < mean else", "test_the_mean_is_the_one_"
     "that_is_paid_for"),
    ("score > self._best_score:", "score < self._best_score:", "test_the_best_of_all_trials_is_"
     "given_and_counted_once"),
    ("if self._costs not in (None, costs):", "if False:", "test_what_the_price_does_not_cover_is_"
     "refused"),
)  # fmt: skip

_TF_PRIVACY_FILE = _of(
    "privacy/tf_privacy.py",
    "privacy/test_plan_and_ledger.py",
    ("below_estimate_stddev=0.0", "below_estimate_stddev=1.0", _TF_PRIVACY),
    ("geometric_update=True", "geometric_update=False", _TF_PRIVACY),
)

_RULES = "gradients/test_rules.py"
_KERNELS = [
    *_of(
        "gradients/reductions.py",
        "gradients/test_norm_bounds.py",
        (
            "tf.square(tf.cast(_flat(rows), tf.float64))",
            "tf.cast(tf.square(_flat(rows)), tf.float64)",
            "gradients/test_norm_bounds.py",
        ),
        ("rows.dtype) * rows", "rows.dtype) ** 2 * rows", "gradients/test_reductions.py"),
        (
            "weights = tf.cast(weights, rows.dtype)[None]",
            "weights = tf.ones_like(tf.cast(weights, rows.dtype))[None]",
            "gradients/test_reductions.py",
        ),
    ),
    *_of(
        "gradients/ghost_norm.py",
        "gradients/test_norm_bounds.py",
        (
            "norms, kept = [*norms, reductions.squared_norms(factors[-1])], [*kept, factors[-1]]",
            "kept = [*kept, factors[-1]]",
            f"{_RULES}::test_dense",
        ),
        (
            "norms, kept = [*norms, found.sum_norms], [*kept, found.sums]",
            "kept = [*kept, found.sums]",
            f"{_RULES}::test_dense",
        ),
        (
            "return tf.maximum(norms, 0.0) + added",
            "return tf.maximum(norms, 0.0)",
            "test_norms_of_cancelling_tokens_bound_what_is_summed",
        ),
        (
            "x, g = (tf.cast(tensor, tf.float64)",
            "x, g = (tf.cast(tensor, tf.float32)",
            "gradients/test_norm_bounds.py",
        ),
        (
            "norms = tf.reduce_sum(x_pairs * g_pairs, axis=(1, 2))",
            "norms = tf.linalg.trace(x_pairs * g_pairs)",
            "gradients/test_reductions.py",
        ),
        (
            "norms = reductions.squared_norms(inputs) * reductions.squared_norms(gradients)",
            "norms = reductions.squared_norms(inputs) + reductions.squared_norms(gradients)",
            "gradients/test_reductions.py",
        ),
        (
            "tf.reduce_sum(joined_tokens([tensor]), axis=1)",
            "tf.reduce_mean(joined_tokens([tensor]), axis=1)",
            f"{_RULES}::test_dense",
        ),
    ),
    *_of(
        "gradients/dense.py",
        "gradients/test_oracle.py",
        (
            "[call.gradient for call in calls]",
            "[calls[0].gradient for call in calls]",
            "test_a_layer_called_twice_adds_its_gradients_before_the_norm",
        ),
        (
            "[call.inputs for call in calls]",
            "[calls[0].inputs for call in calls]",
            "test_a_layer_called_twice_adds_its_gradients_before_the_norm",
        ),
    ),
    *_of(
        "gradients/einsum.py",
        _RULES,
        (
            "return tf.transpose(kernel, [found.index(letter) for letter in equation.kernel])",
            "return tf.reshape(kernel, layer.kernel.shape)",
            "test_einsum_dense",
        ),
        ("not misread", "True", "test_a_bias_that_keras_misreads_is_left_to_the_fallback"),
        ("axis=[*range(1, first), *lacking]", "axis=[*range(1, first)]", "test_einsum_dense"),
    ),
    *_of(
        "gradients/embedding.py",
        _RULES,
        (
            "tf.one_hot(tf.argmax(same, axis=2), places, dtype=gradients.dtype)",
            "tf.eye(places, batch_shape=[tf.shape(rows)[0]], dtype=gradients.dtype)",
            "test_embedding",
        ),
        (
            "tf.where(index < 0, index + layer.input_dim, index)",
            "tf.maximum(index, 0)",
            "test_embedding",
        ),
    ),
]

_LAYERS = [
    *_of(
        "gradients/convolution.py",
        _RULES,
        (
            "layer.dilation_rate[0] * (layer.kernel_size[0] - 1)",
            "layer.kernel_size[0] - 1",
            "test_conv1d",
        ),
        (
            "found = [tf.reduce_sum(tap[..., None] * gradient, axis=(1, 2)) for tap in taps]",
            "found = [tf.reduce_mean(tap[..., None] * gradient, axis=(1, 2)) for tap in taps]",
            "test_depthwise_conv2d",
        ),
        (
            "for x in windows], axis=1)",
            "for x in windows[::-1]], axis=1)",
            "gradients/test_oracle.py::test_token_depthwise_convolution",
        ),
        (
            "return bool(layer.groups == 1 and",
            "return bool(",
            "test_grouped_convolutions_against_a_convolution_for_each_group",
        ),
    ),
    *_of(
        "gradients/normalization.py",
        _RULES,
        (
            "tf.reduce_sum(gradient * normalized, axis=between)",
            "tf.reduce_sum(gradient, axis=between)",
            "test_layer_normalization",
        ),
        (
            "normalized = (inputs - mean) * tf",
            "normalized = inputs * tf",
            "test_layer_normalization",
        ),
        (
            "* (inputs - mean)",
            "* inputs",
            "test_fixed_normalization",
        ),
        (
            "if axis != grouped.shape.rank - 2]",
            "if axis != grouped.shape.rank - 1]",
            "test_group_normalization",
        ),
        (
            'return only_last and not getattr(layer, "rms_scaling", False)',
            "return only_last",
            "test_layer_normalization_without_a_mean_is_left_to_the_fallback",
        ),
    ),
    *_of(
        "gradients/position.py",
        "gradients/test_position_rule.py",
        (
            " - tf.reduce_sum(gradient * content, axis=(2, 3))",
            "",
            "test_norms_and_sums_are_those_of_single_records",
        ),
        (
            "-both * (1.0 - content)",
            "both * (1.0 - content)",
            "test_norms_and_sums_are_those_of_single_records",
        ),
        (
            'encodings - tf.einsum("hik,ikc->hic", place, encodings)[:, :, None, :]',
            "tf.broadcast_to(encodings, [place.shape[0], *encodings.shape])",
            "test_norms_and_sums_are_those_of_single_records",
        ),
    ),
]

_ORACLE = "gradients/test_oracle.py"
_MODEL = [
    *_of(
        "gradients/per_example.py",
        _ORACLE,
        (
            "tf.sqrt(tf.stack(squares, axis=1))",
            "tf.stack(squares, axis=1)",
            "test_whole_model",
        ),
        (
            "self.usable &= tf.math.is_finite(self.losses)",
            "pass",
            "test_a_record_of_infinite_loss_counts_as_zero_though_its_gradient_is_finite",
        ),
        (
            "[_rows_or_zeros(t, self._finite) for t in tensors]",
            "tensors",
            "test_a_row_that_is_not_finite_leaves_no_trace_in_the_sums",
        ),
        (
            "tf.reduce_all(tf.math.is_finite(self._norms), axis=1)",
            "tf.reduce_any(tf.math.is_finite(self._norms), axis=1)",
            "test_a_row_that_is_not_finite_in_one_layer_leaves_no_trace_in_any",
        ),
        ("scale * tf.reduce_sum(counted)", "scale * tf.reduce_mean(counted)", "test_whole_model"),
        ("squares[index] = norm", "squares[members[0]] = norm", "gradients/test_shared_input.py"),
        (
            "usable &= tf.reduce_all(tf.math.is_finite(flat), axis=1)",
            "pass",
            "test_a_row_without_a_finite_gradient_leaves_those_of_its_record",
        ),
        (
            "(-1, rows, *leaf.shape[1:]))[:, index]",
            "(-1, rows, *leaf.shape[1:]))[:, 0]",
            "training/test_neighbours.py::test_a_microbatch_is_clipped_as_the_mean_of_its_records",
        ),
    ),
    *_of(
        "gradients/shared_input.py",
        "gradients/test_shared_input.py",
        (
            "norms[index] += reductions.squared_norms(bias)",
            "pass",
            "test_norms_and_sums_are_those_of_single_records",
        ),
        (
            "reductions.weighted_sum(bias, weights[index])",
            "reductions.weighted_sum(bias, weights[0])",
            "test_norms_and_sums_are_those_of_single_records",
        ),
        (
            "tf.stack(weights, axis=1)",
            "tf.stack(weights[::-1], axis=1)",
            "test_norms_and_sums_are_those_of_single_records",
        ),
    ),
    *_of(
        "gradients/rules.py",
        "gradients/test_layer_rules.py",
        (
            "tf.add_n([reductions.squared_norms(g) for g in factors])",
            "reductions.squared_norms(factors[0])",
            f"{_RULES}::test_layer_normalization",
        ),
        (
            " and kind.call is layer_type.call",
            "",
            "test_a_subclass_with_its_own_call_is_not_served_by_its_bases_rule",
        ),
        (
            "return all(id(v) in known for v in trained_variables(layer))",
            "return True",
            "test_a_subclass_with_another_variable_is_not_served_by_its_bases_rule",
        ),
        (
            "return variable.trainable and",
            "return",
            f"{_ORACLE}::test_own_layers_whose_variables_are_frozen_in_part",
        ),
    ),
    *_of(
        "gradients/layer_calls.py",
        "gradients/test_layer_rules.py",
        ("if record.output is None:", "if True:", f"{_RULES}::test_dense"),
        (
            "for records in (2, 3):",
            "for records in (2,):",
            "test_a_table_is_seen_through_whatever_number_of_rows_it_has",
        ),
    ),
    *_of(
        "gradients/fallback.py",
        "gradients/test_layer_rules.py",
        (
            "output_gradients=tf.nest.map_structure(lambda g: g[None], gradient),",
            "",
            "test_other_layers_go_through_the_fallback_and_say_so",
        ),
    ),
    *_of(
        "gradients/layer_rules.py",
        "gradients/test_layer_rules.py",
        (
            "if isinstance(layer, keras.layers.BatchNormalization):",
            "if False:",
            "test_batch_normalization_is_refused",
        ),
        (
            "if not draws_known_noise_alone(layer, calls):",
            "if False:",
            "test_random_layers_without_a_rule_are_refused",
        ),
        (
            "if calls.read_elsewhere(variable, rule.layer)",
            "if False",
            "test_tied_weights_have_their_whole_gradient",
        ),
        ("if id(variable) in owner:", "if False:", "test_a_variable_of_two_layers_is_refused"),
    ),
    *_of(
        "gradients/convolution.py",
        "gradients/test_more_convolutions.py",
        (
            "norms += [reductions.squared_norms(tensor) for tensor in rest]",
            "norms += [reductions.squared_norms(tensor) for tensor in rest[1:]]",
            "test_separable_conv2d",
        ),
        (
            "number.append(-(-side // stride))",
            "number.append(side // stride)",
            "test_odd_sides_at_every_stride",
        ),
        (
            "before.append(max((number[-1] - 1) * stride + reach - side, 0) // 2)",
            "before.append(0)",
            "gradients/test_rules.py::test_conv2d",
        ),
        (
            "norms, kept = [*norms, found.sum_norms], [*kept, found.sums]",
            "kept = [*kept, found.sums]",
            "gradients/test_rules.py::test_conv2d",
        ),
        (
            "found = tf.reshape(found, (*sizes, -1, channels, multiplier))",
            "found = tf.reshape(found[..., ::-1, :], (*sizes, -1, channels, multiplier))",
            "gradients/test_rules.py::test_depthwise_conv2d",
        ),
        (
            "_windows(layer, full_precision(call.gradient))",
            "_windows(layer, full_precision(call.output))",
            "test_conv2d_transpose",
        ),
    ),
    *_of(
        "gradients/recurrent.py",
        "gradients/test_recurrent.py",
        ("norms.append(part.squared_norms)", "norms = [part.squared_norms]", "test_a_layer"),
        (
            "found += _gate_pairs(before, gradients[-1], layer.cell.recurrent_kernel)",
            "found += _gate_pairs(before, gradients[0], layer.cell.recurrent_kernel)",
            "test_a_layer",
        ),
        (
            "pairs = zip(tf.split(tokens, gates, -1), tf.split(gradients, gates, -1), strict=True)",
            "pairs = zip(tf.split(tokens, gates, -1), tf.split(gradients, gates, -1)[::-1])",
            "test_sums_under_dropout_of_a_mask_for_each_gate",
        ),
        (
            "after = [tf.where(there, a, b) for a, b in zip(after, states, strict=True)]",
            "pass",
            "test_masked_steps",
        ),
        (
            "return (found[0], found[1]) if training else ([], [])",
            "return (found[0], []) if training else ([], [])",
            "test_dropout_keeps_one_mask_for_all_steps",
        ),
    ),
    *_of(
        "gradients/kept_noise.py",
        "gradients/test_kept_noise.py",
        (
            "return drawn <= known and",
            "return True or",
            "test_noise_of_other_kinds_is_still_refused",
        ),
        (
            "return _under(part, inputs, kept[-1])",
            "return call(inputs, training=training)",
            "test_a_block_with_noise_and_a_variable",
        ),
    ),
    *_of(
        "gradients/spectral.py",
        "training/test_spectral.py",
        ("layer.kernel.assign(kernel)", "pass", "test_it_trains_as_plain_keras_does"),
        (
            'stack.enter_context(shadowed(layer, "call", _wrapped_call(layer)))',
            "pass",
            "test_it_trains_as_plain_keras_does",
        ),
    ),
    *_of(
        "gradients/private_forward.py",
        "gradients/test_lookups.py",
        (
            "with lookups_within_range(model), spectra_left(model):",
            "with spectra_left(model):",
            "test_an_index_past_the_end_makes_its_record_count_as_zero",
        ),
    ),
    *_of(
        "gradients/clipped_sum.py",
        "gradients/test_clipped_sum.py",
        (
            "clipping, cap, rules, clipping_groups",
            "clipping, 2 * cap, rules, clipping_groups",
            "test_each_record_is_clipped_to_the_cap",
        ),
        (
            "return tf.cast(loss_fn(model, batch), tf.float32), ()",
            "return 2 * tf.cast(loss_fn(model, batch), tf.float32), ()",
            "test_each_record_is_clipped_to_the_cap",
        ),
    ),
    *_of(
        "gradients/lora.py",
        "gradients/test_lora.py",
        (
            "return float(layer.lora_alpha) / float(layer.lora_rank)",
            "return 1.0",
            "test_dense",
        ),
        (
            "rows = index + layer.input_dim * tf.range(records)[:, None]",
            "rows = index",
            "test_embedding",
        ),
        (
            'tf.einsum(f"{low},{outputs}->{records}{rank}{last}", through_a, scaled)',
            'tf.einsum(f"{low},{outputs}->{records}{rank}{last}", through_a, gradient)',
            "test_einsum_dense",
        ),
    ),
    *_of(
        "gradients/lookups.py",
        "gradients/test_lookups.py",
        (
            "tf.where(there[..., None], found, tf.cast(math.nan, found.dtype))",
            "found",
            "test_an_index_past_the_end_makes_its_record_count_as_zero",
        ),
        (
            "found = call(tf.where(there, index, 0), *args, **kwargs)",
            "found = call(inputs, *args, **kwargs)",
            "test_an_index_past_the_end_makes_its_record_count_as_zero",
        ),
    ),
    *_of(
        "gradients/randomness.py",
        "training/test_layer_randomness.py",
        (
            "elif isinstance(value, (list, tuple, set, frozenset)):",
            "elif isinstance(value, (list, tuple)):",
            "test_generators_are_found_that_keras_does_not_track",
        ),
        (
            "elif isinstance(value, dict):",
            "elif False:",
            "test_generators_are_found_that_keras_does_not_track",
        ),
    ),
]

_STEP = _of(
    "training/step.py",
    _CERTIFIED,
    (
        "taking_part = tf.range(i * size, (i + 1) * size) < microbatches",
        "taking_part = tf.ones([size], tf.bool)",
        _BATCHES,
    ),
    ("sums + more,", "more,", _BATCHES),
    ("below_count + more_below_count,", "more_below_count,", _BATCHES),
    (
        "            1.0 / self._rows_averaged,\n",
        "            1.0,\n",
        "training/test_neighbours.py::test_augmented_copies_are_averaged_before_clipping",
    ),
    (
        "seed = tf.random.experimental.stateless_fold_in(noise_key, step)",
        "seed = noise_key",
        "test_noise_is_never_drawn_twice",
    ),
    (
        "stddev * normals[1 : size + 1]",
        "normals[1 : size + 1]",
        "test_the_noise_has_the_declared_standard_deviation",
    ),
    (
        "normals[1 : size + 1]) / plan.num_microbatches",
        "normals[1 : size + 1]) / plan.num_examples",
        "test_noise_is_never_drawn_twice",
    ),
    (
        "count_stddev * normals[0], plan",
        "0.0 * normals[0], plan",
        "test_the_count_that_moves_the_sensitivity_is_noised_as_declared",
    ),
    (
        "tf.constant([mechanism.split_noise()[1] for",
        "tf.constant([mechanism.split_noise()[0] for",
        "test_the_count_that_moves_the_sensitivity_is_noised_as_declared",
    ),
    (
        'side="right"',
        'side="left"',
        "training/test_certified_step.py::test_noise_changes_with_the_step_that_the_schedule_names",
    ),
    (
        "sums[size:] + metrics_stddev * normals[size + 1 :]",
        "sums[size:]",
        "training/test_private_metrics.py::test_noise_on_the_metrics_is_what_the_mechanism_says",
    ),
    (
        "return shared if shared > 1 else self._rows_per_microbatch",
        "return self._rows_per_microbatch",
        "training/test_neighbours.py::test_a_microbatch_is_clipped_as_the_mean_of_its_records",
    ),
)

_SIZES = _of(
    "privacy/batch_sizes.py",
    "privacy/test_plan_and_ledger.py",
    (
        "return math.ceil(epochs * num_examples / batch_size)",
        "return math.floor(epochs * num_examples / batch_size)",
        "test_epsilon_is_that_of_tf_privacy",
    ),
)

_CLIPPED = _of(
    "gradients/clipped_gradients.py",
    _CERTIFIED,
    ("clipping.factors(norms), cap", "tf.ones_like(norms), cap", _ONE_BY_ONE),
    (
        "tf.norm(tf.gather(layer_norms, np.flatnonzero(column), axis=1), axis=1)",
        "tf.reduce_max(tf.gather(layer_norms, np.flatnonzero(column), axis=1), axis=1)",
        f"{_MOVES}[median_by_block]",
    ),
    (
        "clipped = tf.where(gradients.usable, clipped, 0.0)",
        "clipped = clipped + 0.0",
        "training/test_bad_records.py::test_the_norm_of_a_record_of_infinite_loss_is_counted_as_zero",
    ),
)

_MEANS = [
    *_of(
        "training/private_mean.py",
        "training/test_private_mean.py",
        (
            "np.minimum(1.0, l2_norm_clip / np.maximum(norms, 1e-300))",
            "l2_norm_clip / np.maximum(norms.max(), 1e-300)",
            "test_one_record_moves_the_sum_by_the_clip_at_most",
        ),
        (
            "rows = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, 0.0)\n"
            "    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)  # squares may",
            "largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)  # squares may",
            "test_one_record_moves_the_sum_by_the_clip_at_most",
        ),
        (
            "noise_multiplier * clip * normals_for",
            "clip * normals_for",
            "test_noise_has_the_scale_that_the_entry_says",
        ),
        (
            "model.start_from(PrivacyLedger(tuple(entries)))",
            "model.start_from(PrivacyLedger())",
            "test_centred_features_cost_one_release_a_block",
        ),
    ),
    *_of(
        "privacy/plan.py",
        "training/test_private_mean.py",
        (
            "before = [] if prior is None else [prior.event()]",
            "before: list[Any] = []",
            "test_a_target_covers_means_and_steps",
        ),
    ),
    *_of(
        "privacy/ledger_entries.py",
        "training/test_private_mean.py",
        (
            "steps=1,\n        noise_multiplier=noise_multiplier,",
            "steps=0,\n        noise_multiplier=noise_multiplier,",
            "test_epsilon_is_that_of_a_gaussian",
        ),
    ),
    *_of(
        "training/frozen_features.py",
        "training/test_frozen_features.py",
        (
            "rows = slice(start, min(start + _BATCH, count))",
            "rows = slice(start, min(start + _BATCH, count) - 1)",
            "test_features_are_the_input_of_the_logits",
        ),
    ),
]

_HEADS = [
    *_of(
        "privacy/head_plan.py",
        "training/test_solved_head.py",
        (
            "self.noise_multiplier / math.sqrt(self._share)",
            "self.noise_multiplier * math.sqrt(self._share)",
            "test_epsilon_is_that_of_all_its_gaussians",
        ),
        (
            "math.sqrt(self.num_steps / (1 - self._share))",
            "math.sqrt(1 / (1 - self._share))",
            "test_epsilon_is_that_of_all_its_gaussians",
        ),
        (
            "PrivacyLedger((*before, entry) * compositions).event()",
            "PrivacyLedger((*before, entry)).event()",
            "test_members_share_a_target",
        ),
        (
            "before = () if prior is None else prior.entries",
            "before = ()",
            "test_epsilon_is_that_of_all_its_gaussians",
        ),
    ),
]

MUTATIONS = [
    *_SENSITIVITY, *_CLIPPING, *_MECHANISM, *_RANDOMNESS, *_SAMPLING, *_SCHEDULES, *_ACCOUNTING,
    *_ENTRIES, *_LEDGER, *_PLAN, *_WORDS, *_TUNING, *_TF_PRIVACY_FILE, *_KERNELS, *_LAYERS, *_MODEL,
    *_STEP, *_CLIPPED, *_SIZES, *_MEANS, *_HEADS,
]  # fmt: skip
