"""Speed and memory of private training, against training without privacy and against peers."""
