"""Physical constants in eV, Å and e."""

# e^2 / (4 pi eps0) in eV Å, from the CODATA 2018 values of e and eps0
# (scipy.constants: e / (4 pi epsilon_0) * 1e10 gives it with eps0 = 8.8541878128e-12 F/m).
COULOMB = 14.399645478425668
