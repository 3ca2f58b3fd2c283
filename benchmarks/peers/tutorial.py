"""PyTorch's tutorial on CIFAR-10, line for line, over images that are there already.

https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html. The transforms of one image
are what torchvision's `ToTensor` and `Normalize` do, written out so that torchvision is not needed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image


class Net(nn.Module):
    """The tutorial's network."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, 32, 32) to (N, 10)."""
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """An image as floats (3, H, W) from 0 to 1, as torchvision's `ToTensor`."""
    pixels = torch.from_numpy(np.array(image, np.uint8, copy=True))
    pixels = pixels.view(image.size[1], image.size[0], 3).permute(2, 0, 1).contiguous()
    return pixels.to(dtype=torch.get_default_dtype()).div(255)


def normalised(x: torch.Tensor) -> torch.Tensor:
    """`(x - 0.5) / 0.5`, as torchvision's `Normalize`."""
    mean = torch.as_tensor((0.5, 0.5, 0.5), dtype=x.dtype, device=x.device).view(-1, 1, 1)
    std = torch.as_tensor((0.5, 0.5, 0.5), dtype=x.dtype, device=x.device).view(-1, 1, 1)
    return x.clone().sub_(mean).div_(std)


class Images(torch.utils.data.Dataset):
    """Images and labels, one at a time, as torchvision's `CIFAR10` has them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels.tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return normalised(to_tensor(Image.fromarray(self.images[index]))), self.labels[index]


class Trained:
    """The network, its optimizer, and the loop."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, batch: int, form: str):
        self.net, self.criterion = Net(), nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.001, momentum=0.9)
        held: Any = Images(images, labels)
        if form in ("tensors", "indexed"):  # all of them made before
            held = normalised(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).contiguous()
            held = torch.utils.data.TensorDataset(held, torch.from_numpy(labels).long())
        self.held, self.batch = held, batch
        workers = 2 if form == "workers" else 0
        self.batches = self.indexed() if form == "indexed" else self.loaded(workers)

    def loaded(self, workers: int) -> Iterator:
        """Minibatches of a DataLoader, epoch after epoch."""
        how: Any = {"batch_size": self.batch, "shuffle": True, "num_workers": workers}
        loader = torch.utils.data.DataLoader(self.held, **how)
        while True:
            yield from loader

    def indexed(self) -> Iterator:
        """Minibatches by rows of a shuffled permutation."""
        while True:
            for rows in torch.randperm(len(self.held)).split(self.batch):
                yield self.held[rows]

    def run(self, steps: int) -> float:
        """Takes the steps and returns their mean loss."""
        running_loss = 0.0
        for _ in range(steps):
            inputs, labels = next(self.batches)
            self.optimizer.zero_grad()
            outputs = self.net(inputs)
            loss = self.criterion(outputs, labels)
            loss.backward()
            self.optimizer.step()
            running_loss += loss.item()
        return running_loss / steps
