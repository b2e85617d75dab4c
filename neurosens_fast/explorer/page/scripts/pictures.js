// Pixels for Bokeh's image glyphs, used by the views that draw images.
"use strict";

explorer.pictures = (() => {
  const GREY = 128; // what hides pixels: mid-grey

  // The benign image, or with a level its adversarial one: {pixels [height * width * bands], height, width, bands}.
  function picture(model, row, level = null) {
    const {benign, adversarial} = model.data;
    const [count, height, width, bands] = benign.shape;
    const size = height * width * bands;
    const pixels = benign.data.slice(row * size, (row + 1) * size);
    if (level !== null) {
      const change = adversarial.data.subarray((level * count + row) * size, (level * count + row + 1) * size);
      for (let i = 0; i < size; i++) pixels[i] += change[i]; // modulo 256, as it was packed
    }
    return {pixels, height, width, bands};
  }

  // mask {data, height, width} at pixel (y, x) of an image that may have been made smaller
  function inside(mask, y, x, height, width) {
    const top = Math.min(mask.height - 1, Math.floor(((y + 0.5) * mask.height) / height));
    const left = Math.min(mask.width - 1, Math.floor(((x + 0.5) * mask.width) / width));
    return mask.data[top * mask.width + left];
  }

  // `under` with the pixels of `over` inside of the mask.
  function swapped(under, over, mask) {
    const {height, width, bands} = under;
    const pixels = under.pixels.slice();
    for (let i = 0; i < height * width; i++) {
      if (!inside(mask, Math.floor(i / width), i % width, height, width)) continue;
      for (let band = 0; band < bands; band++) pixels[i * bands + band] = over.pixels[i * bands + band];
    }
    return {pixels, height, width, bands};
  }

  // One number per pixel for image_rgba; outside of the mask (null: none) only `visibility` of the image is seen.
  function rgba({pixels, height, width, bands}, mask = null, visibility = 1) {
    const found = new Uint32Array(height * width);
    for (let i = 0; i < found.length; i++) {
      const seen = mask === null || inside(mask, Math.floor(i / width), i % width, height, width) ? 1 : visibility;
      let colour = 0xff;
      for (let band = 2; band >= 0; band--) {
        const value = pixels[i * bands + (bands === 1 ? 0 : band)];
        colour = (colour << 8) | Math.round(seen * value + (1 - seen) * GREY);
      }
      found[i] = colour >>> 0;
    }
    return found;
  }

  // Bokeh's own kind of array, taken from what is there before.
  function array(source, values, height, width) {
    return new source.data.image[0].constructor(values, [height, width]);
  }

  function show(source, values, height, width) {
    source.data = {image: [array(source, values, height, width)]};
  }

  return {picture, inside, swapped, rgba, array, show};
})();
