from . import federated as federated
from . import mpc as mpc
