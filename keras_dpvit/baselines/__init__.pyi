from . import mpc as mpc
