"""The graph: what a computation leaves behind, and the table that says how to differentiate it.

Floor 0. `records.py` has values, calls and their order; `table.py` the rule for each function.
"""

from tinygrad_mm.graph.records import (
    NO_KWARGS,
    Monitor,
    Node,
    Scope,
    Vertex,
    entered,
    module_of,
    name_of,
    released,
    state,
    tick,
    topological,
)
from tinygrad_mm.graph.table import (
    RULES,
    Rule,
    defcomposite,
    defmetadata,
    defstopped,
    defvjp,
    defvjp_each,
    named_call,
    positional,
    primitive,
    select,
)

__all__ = [
    "NO_KWARGS",
    "RULES",
    "Monitor",
    "Node",
    "Rule",
    "Scope",
    "Vertex",
    "defcomposite",
    "defmetadata",
    "defstopped",
    "defvjp",
    "defvjp_each",
    "entered",
    "module_of",
    "name_of",
    "named_call",
    "positional",
    "primitive",
    "released",
    "select",
    "state",
    "tick",
    "topological",
]
