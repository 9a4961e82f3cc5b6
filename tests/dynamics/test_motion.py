"""Compiled functions of runs, kept for those that go on."""

from lesjax.dynamics import Settings
from lesjax.dynamics.energy import make_template
from lesjax.dynamics.motion import motion_of


def test_run_that_goes_on_has_the_compiled_functions_of_before(ions, small_potential):
    def motion(atoms=ions, **changes):
        settings = Settings(**{"ensemble": "nve", **changes})
        return motion_of(settings, make_template(small_potential, atoms, None), atoms)

    first, heavy = motion(), ions.copy()
    heavy.set_masses(2.0 * ions.get_masses())
    assert motion(steps=70) is first
    moved = ions.copy()
    moved.rattle(0.01)
    assert motion(moved) is first
    others = [motion(heavy), motion(timestep=0.25), motion(ensemble="csvr", temperature=100.0)]
    assert first not in others
    assert motion() is first
    for atoms in (ions[:4], ions[:5], ions[:6], ions[:7]):
        assert motion(atoms) is not first
    assert motion() is not first  # those of the last four runs are kept
    # which rotations there are depends on the positions
    assert motion(moved, angular_momentum="zero") is not motion(angular_momentum="zero")
