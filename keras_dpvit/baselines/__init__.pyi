from . import federated as federated
from . import mpc as mpc
from . import ppgan as ppgan
