"""What the MMDetection and MMSegmentation adapters share: the network, configs, images and training of MMEngine."""
