"""How much each task weighs in the draw: as in the paper, or by a rule of the user's own.

The rule is a function, called as `rule(losses=losses, members=members)`: of each task seen, in the
order of arrival, the zoo's log loss on its training part and the number of its members, both
float64 of shape (tasks,); it gives their weights, positive and finite, of the same shape. Draws are
replayed, and told early from guessed losses and expected numbers of members: the weights must be a
function of these two alone.
"""

from dataclasses import replace
from inspect import isfunction

import numpy as np

from zoo_ray.errors import UserError
from zoo_ray.own_code import UnusableCode, find_own, is_own, refuse_elsewhere, their_errors
from zoo_ray.rules import Rules
from zoo_ray.zoo.boosting import Floats, boosting_weights


def task_weights(rules: Rules, *, losses: Floats, members: Floats) -> Floats:
    """Weights of the tasks seen, by a zoo's rules; arguments as of the user's rule.

    Raises:
        UserError: the user's rule is not there, or not as it must be.
    """
    if not is_own(rules.weights):
        return boosting_weights(losses, sharpness=rules.sharpness)
    try:
        return _own_weights(rules, losses, members) if len(losses) else np.ones(0)
    except UnusableCode as error:
        raise UserError(
            f"zoo.weights = {rules.weights}: {error}; the README says what is asked of a rule of "
            "your own"
        ) from None


def with_source(rules: Rules) -> Rules:
    """The rules, with what tells the user's rule of weights from other versions of it.

    Raises:
        UserError: as of `task_weights`, for losses as they may come.
    """
    if not is_own(rules.weights):
        return rules
    some, no_loss = np.linspace(0.01, 2.0, rules.tasks), np.zeros(rules.tasks)
    cases = [(some, 1), (some[:1], 1), (no_loss, 1), *([] if rules.arriving else [(some, 0)])]
    for losses, count in cases:
        members = np.full(len(losses), float(count))
        first, again = (task_weights(rules, losses=losses, members=members) for _ in range(2))
        if not np.array_equal(first, again):
            raise UserError(
                f"zoo.weights = {rules.weights}: gives other weights for the same losses and "
                "members; draw nothing in it (the draw has its own noise)"
            )
    return replace(rules, weights_source=find_own(rules.weights).source)


def _own_weights(rules: Rules, losses: Floats, members: Floats) -> Floats:
    rule = find_own(rules.weights, source=rules.weights_source or None).found
    if isfunction(rule):
        refuse_elsewhere(rules.weights, rule)
    called = f"called as rule(losses={losses[:3]}, members={members[:3]})"
    with their_errors(called), np.errstate(all="ignore"):
        # Copies: what a rule changes, now or later, must not reach the zoo.
        given = rule(losses=losses.copy(), members=members.copy())
        weights = np.array(given, dtype=np.float64)
    if weights.shape != losses.shape or not (np.isfinite(weights) & (weights > 0)).all():
        raise UnusableCode(
            f"gives {weights[:3] if weights.ndim else weights} of shape {weights.shape} for "
            f"{len(losses)} tasks (losses {losses[:3]}, members {members[:3]}), not a positive "
            "finite number for each"
        )
    return weights
