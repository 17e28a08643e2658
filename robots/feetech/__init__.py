"""The SO-100 and SO-101 arms: six serial-bus servos by Feetech."""
