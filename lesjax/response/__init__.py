"""Response of charges and dipoles to potential and field."""

from lesjax.response.electronic import (
    epsilon_infinity as epsilon_infinity,
    induced_polarizability as induced_polarizability,
    polarizability as polarizability,
)
from lesjax.response.equilibration import (
    Equilibration as Equilibration,
    check_equilibration as check_equilibration,
    equilibrate as equilibrate,
)
from lesjax.response.induction import (
    InducedMultipoles as InducedMultipoles,
    check_induction as check_induction,
    one_shot_induction as one_shot_induction,
    self_consistent_induction as self_consistent_induction,
)
