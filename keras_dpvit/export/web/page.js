// The page: pictures in, the model's answer out. Nothing is sent anywhere.

import {fitted} from './pixels.js';
import {Tensor, loadAndCompile, loadLiteRt} from './litert/index.js';

const MOST_SHOWN = 10;
const element = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

let model;
let facts;
let stream = null;

function say(text) {
  element('status').textContent = text;
}

async function json(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is missing`);
  return answer.json();
}

async function start() {
  facts = await json('model.json');
  document.title = facts.title;
  element('title').textContent = facts.title;
  element('epsilon').textContent = facts.headline;
  element('statement').textContent = facts.statement;
  await loadLiteRt(new URL('litert/wasm/', import.meta.url).href);
  model = await loadAndCompile(new URL('model.tflite', import.meta.url).href, {accelerator: 'wasm'});
  say('Ready: give it a picture.');
}

// The model's outputs for pixels (height, width, channels) of 0 to 255, by name.
async function run(pixels) {
  const shape = [1, ...facts.image_shape];
  const typed = facts.input_dtype === 'uint8' ? pixels : Float32Array.from(pixels);
  const input = Tensor.fromTypedArray(typed, shape);
  const outputs = await model.run('serving_default', {images: input});
  input.delete();
  const found = {};
  for (const [name, tensor] of Object.entries(outputs)) {
    found[name] = Array.from(await tensor.data());
    tensor.delete();
  }
  return found;
}

function rows(body, entries) {
  body.replaceChildren(
    ...entries.map(([name, share]) => {
      const row = document.createElement('tr');
      const head = document.createElement('th');
      head.scope = 'row';
      head.textContent = name;
      const bar = document.createElement('progress');
      bar.max = 1;
      bar.value = share;
      bar.setAttribute('aria-label', `${name}: ${percent(share)}`);
      const middle = document.createElement('td');
      middle.append(bar);
      const number = document.createElement('td');
      number.textContent = percent(share);
      row.append(head, middle, number);
      return row;
    })
  );
}

function show(outputs, milliseconds) {
  const ranked = outputs.probabilities
    .map((share, i) => [facts.labels[i], share])
    .sort((a, b) => b[1] - a[1]);
  rows(element('classes').tBodies[0], ranked.slice(0, MOST_SHOWN));
  element('classes').hidden = false;
  if (outputs.weights) {
    rows(
      element('members').querySelector('tbody'),
      outputs.weights.map((share, i) => [`Model ${i + 1}`, share])
    );
    element('members').hidden = false;
  }
  say(`${ranked[0][0]}, ${percent(ranked[0][1])}, in ${milliseconds.toFixed(0)} ms.`);
}

// Classifies what can be drawn: a picture or a frame of the camera.
async function classify(source, width, height, name) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', {colorSpace: 'srgb', willReadFrequently: true});
  context.drawImage(source, 0, 0, width, height);
  const image = context.getImageData(0, 0, width, height);
  const begun = performance.now();
  const outputs = await run(fitted(image, facts.image_shape));
  const milliseconds = performance.now() - begun;
  const preview = element('preview');
  const factor = Math.min(preview.width / width, preview.height / height);
  const pen = preview.getContext('2d');
  pen.clearRect(0, 0, preview.width, preview.height);
  pen.imageSmoothingEnabled = factor < 1;
  const [w, h] = [width * factor, height * factor];
  pen.drawImage(source, (preview.width - w) / 2, (preview.height - h) / 2, w, h);
  preview.setAttribute('aria-label', name);
  show(outputs, milliseconds);
  return outputs;
}

export async function classifyFile(file) {
  let picture;
  try {
    picture = await createImageBitmap(file, {
      imageOrientation: 'from-image',
      premultiplyAlpha: 'none',
      colorSpaceConversion: 'none',
    });
  } catch {
    say(`${file.name || 'This'} is not a picture that this browser can read.`);
    return null;
  }
  const outputs = await classify(picture, picture.width, picture.height, file.name || 'Picture');
  picture.close();
  return outputs;
}

async function toggleCamera() {
  const [button, video] = [element('camera'), element('video')];
  if (stream !== null) {
    stream.getTracks().forEach((track) => track.stop());
    stream = null;
    button.setAttribute('aria-pressed', 'false');
    button.textContent = 'Start the camera';
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}});
  } catch {
    say('There is no camera, or the page may not use it.');
    return;
  }
  button.setAttribute('aria-pressed', 'true');
  button.textContent = 'Stop the camera';
  video.srcObject = stream;
  await video.play();
  const frame = async () => {
    if (stream === null) return;
    await classify(video, video.videoWidth, video.videoHeight, 'The camera');
    requestAnimationFrame(frame);
  };
  frame();
}

const ready = start().catch((error) => {
  say(`The model cannot be loaded: ${error.message}.`);
  throw error;
});

async function take(files) {
  await ready;
  for (const file of files) {
    if (file.type.startsWith('image/') || file.type === '') return classifyFile(file);
  }
  say('That is no picture.');
  return null;
}

element('file').addEventListener('change', (event) => take(event.target.files));
element('camera').addEventListener('click', async () => {
  await ready;
  await toggleCamera();
});
const drop = element('drop');
drop.addEventListener('dragover', (event) => {
  event.preventDefault();
  drop.classList.add('over');
});
drop.addEventListener('dragleave', () => drop.classList.remove('over'));
drop.addEventListener('drop', (event) => {
  event.preventDefault();
  drop.classList.remove('over');
  take(event.dataTransfer.files);
});
document.addEventListener('paste', (event) => take(event.clipboardData.files));

// For whoever drives the page from outside, as its tests do.
globalThis.page = {ready, classifyFile, run: async (pixels) => (await ready, run(pixels))};
