"""The end of a training: the sign of the charges, and what a saved model says about itself."""

import dataclasses

from lesjax.io import chemical_symbols
from lesjax.models.potential import Potential
from lesjax.models.provenance import Provenance, has_learned_charges
from lesjax.models.sign import most_electronegative
from lesjax.runs import lesjax_version
from lesjax.training.charges import charge_statistics, charges_of
from lesjax.training.config import TrainingSection
from lesjax.training.data import Dataset
from lesjax.training.prepare import Prepared
from lesjax.training.sign import decisive, orient, sign_is_free
from lesjax.training.validation import labels_set_sign, phase_weights, validated


def finish(potential: Potential, prepared: Prepared, section: TrainingSection, initial_size: float | None) -> Potential:
    """Return a trained potential with the sign of the convention and with its provenance; itself if it has both.

    Args:
        potential: the model.
        prepared: data and model of the run.
        section: settings of the run.
        initial_size: size of the charges before training, see `lesjax.models.provenance.ChargeStatistics`.
    """
    sign, statistics, finished = None, None, potential
    if potential.config.long_range is not None:
        dataset = decisive(prepared.train, prepared.valid)
        # terms of the last validation, for which all is compiled
        arguments = (dataset, validated(phase_weights(section.phases[-1])), section.batch_size)
        labels = labels_set_sign(section)
        finished = potential if labels else orient(potential, *arguments) or potential
        sign = _sign(potential, dataset, labels)
        statistics = charge_statistics(charges_of(finished, *arguments), initial_size)
    provenance = prepared.provenance or Provenance(
        lesjax_version(), n_train=len(prepared.train), n_valid=len(prepared.valid or ())
    )
    provenance = dataclasses.replace(provenance, sign=sign, charges=statistics)
    if finished is potential and potential.provenance == provenance:
        return potential
    return dataclasses.replace(finished, provenance=provenance)


def _sign(potential: Potential, dataset: Dataset, labels: bool) -> str:
    """What has set the sign of the latent charges, in words."""
    if not has_learned_charges(potential.config):
        return "charges that were given"
    if labels:
        return "labels of charges, moments or Born effective charges"
    if not sign_is_free(potential, dataset):
        return "total charges of the structures"
    negative = most_electronegative(potential.config)
    return "nothing" if negative is None else f"electronegativities: {chemical_symbols[negative]} is negative"
