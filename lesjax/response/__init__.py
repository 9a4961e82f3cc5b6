from lesjax.ewald import (
    Equilibration as Equilibration,
    Induction as Induction,
    check_equilibration as check_equilibration,
    check_induction as check_induction,
    equilibrate as equilibrate,
    one_shot_induction as one_shot_induction,
    self_consistent_induction as self_consistent_induction,
)
