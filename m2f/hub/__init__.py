"""Checkpoints from and for elsewhere: conversion of the original's weights."""
