"""The graph: what a computation leaves behind, and the table that says how to differentiate it.

Floor 0. `records.py` has values, calls and their order; `table.py` the rule for each function.
"""

from tinygrad_mm.graph.records import (
    NO_KWARGS,
    Joint,
    Monitor,
    Node,
    Scope,
    Vertex,
    entered,
    name_of,
    released,
    state,
    thread,
    tick,
    topological,
)
from tinygrad_mm.graph.table import (
    RULES,
    Rule,
    defcomposite,
    defkept,
    defmetadata,
    defover,
    defstopped,
    defvjp,
    defvjp_each,
    primitive,
    primitives_go_to,
    select,
)

__all__ = [
    "NO_KWARGS",
    "RULES",
    "Joint",
    "Monitor",
    "Node",
    "Rule",
    "Scope",
    "Vertex",
    "defcomposite",
    "defkept",
    "defmetadata",
    "defover",
    "defstopped",
    "defvjp",
    "defvjp_each",
    "entered",
    "name_of",
    "primitive",
    "primitives_go_to",
    "released",
    "select",
    "state",
    "thread",
    "tick",
    "topological",
]
