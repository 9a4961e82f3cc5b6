"""Files of structures, and their labels under configurable keys."""

from ase import Atoms as Atoms
from ase.data import chemical_symbols as chemical_symbols, covalent_radii as covalent_radii

from lesjax.io.files import (
    composition as composition,
    element_names as element_names,
    find_files as find_files,
    frozen as frozen,
    read as read,
    write as write,
)
from lesjax.io.keys import (
    BORN_ORDER_OF_NAME as BORN_ORDER_OF_NAME,
    BORN_ORDERS as BORN_ORDERS,
    Keys as Keys,
    Labels as Labels,
    assigned_keys as assigned_keys,
)
from lesjax.io.references import (
    Selection as Selection,
    all_labels as all_labels,
    labels as labels,
    select as select,
)
