"""Traces of JAX: cut by what each step depends on, and compiled for SPU."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.baselines.mpc_runtime import libspu

_CONSTANT, _IMAGE, _WEIGHTS, _BOTH = 0, 1, 2, 3  # what a value depends on: bits


def cut(
    function: Callable[..., Any], variables: list[Array], images: Any
) -> tuple[bytes, list[Array], bytes]:
    """The image's part, the values that the model's owner shares, and SPU's executable.

    Args:
        function: of a list of variables and a batch; returns one array.
        variables: arrays.
        images: the batch, or its shape.

    Returns:
        bytes of `jax.export`, from the batch to arrays; arrays; bytes of SPU's executable with the
        arrays as inputs `w0`, ... and those of the image's part as `x0`, ....
    """
    import jax
    from jax import export
    from jax.interpreters import partial_eval

    closed = jax.make_jaxpr(function)(variables, images)
    trace, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), True)
    depends = dict.fromkeys(trace.constvars, _CONSTANT)
    depends |= dict.fromkeys(trace.invars[:-1], _WEIGHTS)
    depends[trace.invars[-1]] = _IMAGE
    parts: dict[int, list[Any]] = {_CONSTANT: [], _IMAGE: [], _WEIGHTS: [], _BOTH: []}
    for step in trace.eqns:
        on = _CONSTANT
        for variable in step.invars:
            if not isinstance(variable, jax.core.Literal):
                on |= depends[variable]
        depends |= dict.fromkeys(step.outvars, on)
        parts[on].append(step)

    known = dict(zip(trace.constvars, closed.consts, strict=True))
    _evaluate(parts[_CONSTANT], known)
    owned = {**known, **dict(zip(trace.invars[:-1], variables, strict=True))}
    _evaluate(parts[_WEIGHTS], owned)

    (answer,) = trace.outvars
    needed = _inputs(parts[_BOTH], answer)
    from_images = [variable for variable in needed if depends[variable] == _IMAGE]
    from_weights = [variable for variable in needed if depends[variable] == _WEIGHTS]

    def image_part(batch: Any) -> list[Any]:
        values = {**known, trace.invars[-1]: batch}
        _evaluate(parts[_IMAGE], values)
        return [values[variable] for variable in from_images]

    def secret_part(weights: list[Any], shared: list[Any]) -> Any:
        values = {**known, **dict(zip(from_weights, weights, strict=True))}
        values |= dict(zip(from_images, shared, strict=True))
        _evaluate(parts[_BOTH], values)
        return values[answer]

    weights = [np.asarray(owned[variable]) for variable in from_weights]
    exported = export.export(jax.jit(image_part))(images)
    shared = jax.eval_shape(image_part, images)
    return bytes(exported.serialize()), weights, compiled(secret_part, weights, shared)


def _inputs(steps: list[Any], answer: Any) -> list[Any]:
    """The variables that steps, and the answer, take from elsewhere, each once, in order."""
    import jax

    made = {variable for step in steps for variable in step.outvars}
    taken = [variable for step in steps for variable in step.invars] + [answer]
    free = (v for v in taken if not isinstance(v, jax.core.Literal) and v not in made)
    return list(dict.fromkeys(free))


_Instead = dict[str, Callable[[Any], Any]]


def _evaluate(steps: list[Any], values: dict[Any, Any], instead: _Instead | None = None) -> None:
    """Computes the steps of a trace, one by one, into `values`.

    Args:
        steps: equations of a jaxpr.
        values: what is known, by variable.
        instead: functions that stand in for primitives of these names, at any depth of `jit`.
    """
    import jax

    for step in steps:
        given = [v.val if isinstance(v, jax.core.Literal) else values[v] for v in step.invars]
        name = step.primitive.name
        if instead and name in instead:
            found = [instead[name](*given)]
        elif instead and name == "pjit":
            found = _outputs(step.params["jaxpr"], given, instead)
        else:
            functions, parameters = step.primitive.get_bind_params(step.params)
            found = step.primitive.bind(*functions, *given, **parameters)
            found = found if step.primitive.multiple_results else [found]
        values.update(zip(step.outvars, found, strict=True))


def _outputs(trace: Any, given: Sequence[Any], instead: _Instead) -> list[Any]:
    """A closed jaxpr's outputs for these inputs; see `_evaluate`."""
    import jax

    values = dict(zip(trace.jaxpr.constvars, trace.consts, strict=True))
    values |= dict(zip(trace.jaxpr.invars, given, strict=True))
    _evaluate(trace.jaxpr.eqns, values, instead)
    last = trace.jaxpr.outvars
    return [v.val if isinstance(v, jax.core.Literal) else values[v] for v in last]


_ERF_BOUND, _ERF_DEGREE = 3.2, 10


def secret_functions() -> _Instead:
    """Cheaper ways to the same numbers, by the name of JAX' primitive, for secret arguments."""
    return {"erf": secret_erf, "erfc": lambda x: 1.0 - secret_erf(x)}


def secret_erf(x: Any) -> Any:
    """`erf` as a polynomial: two comparisons and 12 products, where XLA has exp and divisions too.

    `x p(2 (x / b)^2 - 1)` on `-b..b`, and the ends outside, with Chebyshev polynomials by
    Clenshaw's rule, whose intermediate values stay small. It errs by less than 7e-6.
    """
    import jax.numpy as jnp
    from numpy.polynomial import chebyshev
    from scipy import special

    nodes = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    roots = _ERF_BOUND * np.sqrt((nodes + 1) / 2)
    values = special.erf(roots) / roots
    coefficients = chebyshev.chebfit(nodes, values, _ERF_DEGREE)  # type: ignore[no-untyped-call]
    x = jnp.clip(x, -_ERF_BOUND, _ERF_BOUND)
    double = jnp.square(x * (2 / _ERF_BOUND)) - 2  # twice the Chebyshev polynomials' argument
    last, before = 0.0, 0.0
    for coefficient in coefficients[:0:-1].tolist():
        last, before = coefficient + double * last - before, last
    return x * (coefficients[0].item() + 0.5 * double * last - before)


def compiled(function: Callable[..., Any], weights: Sequence[Any], inputs: Sequence[Any]) -> bytes:
    """SPU's executable of `function(weights, inputs)`, all of them secret, as bytes.

    Args:
        function: of two lists of arrays, traced by JAX; returns one array.
        weights: arrays or shapes, named `w0`, `w1`, ....
        inputs: the same, named `x0`, `x1`, ....
    """
    native = libspu()
    import jax
    from spu.utils import frontend

    trace = jax.make_jaxpr(function)(list(weights), list(inputs))

    def secret(owned: list[Any], shared: list[Any]) -> Any:
        return _outputs(trace, [*owned, *shared], secret_functions())[0]

    names = [f"w{index}" for index in range(len(weights))]
    names += [f"x{index}" for index in range(len(inputs))]
    options = native.CompilerOptions()
    options.enable_optimize_denominator_with_broadcast = True  # one division a row of a softmax
    executable, _ = frontend.compile(
        frontend.Kind.JAX,
        secret,
        [list(weights), list(inputs)],
        {},
        names,
        [native.Visibility.VIS_SECRET] * len(names),
        lambda outputs: [f"y{index}" for index in range(len(outputs))],
        copts=options,
    )
    found: bytes = executable.SerializeToString()
    return found
