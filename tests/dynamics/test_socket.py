"""i-PI's protocol through ase's client, as docs/howto/ipi.md has it, with a server of ase in the place of i-PI."""

import threading
import uuid

import numpy as np
import pytest
from ase.calculators.socketio import SocketClient, SocketIOCalculator

from lesjax.dynamics import LesCalculator


def test_energy_forces_and_stress_through_a_socket(ions, small_potential):
    name = f"lesjax-{uuid.uuid4().hex[:12]}"
    served = ions.copy()
    expected = ions.copy()
    expected.calc = LesCalculator(small_potential)
    ions.calc = LesCalculator(small_potential)

    def drive():
        SocketClient(unixsocket=name, timeout=60).run(ions, use_stress=True)

    with SocketIOCalculator(unixsocket=name, timeout=60) as server:
        client = threading.Thread(target=drive, daemon=True)
        client.start()
        served.calc = server
        for _ in range(2):
            energy, forces = served.get_potential_energy(), served.get_forces()
            expected.positions, expected.cell = served.positions, served.cell
            # the protocol speaks Hartree and Bohr, and turns back
            assert energy == pytest.approx(expected.get_potential_energy(), rel=1e-9)
            np.testing.assert_allclose(forces, expected.get_forces(), atol=1e-6)
            np.testing.assert_allclose(served.get_stress(), expected.get_stress(), atol=1e-7)
            served.positions += 0.05 * np.sin(np.arange(served.positions.size)).reshape(-1, 3)
            served.set_cell(1.01 * served.cell, scale_atoms=True)
    client.join(timeout=60)
    assert not client.is_alive()
