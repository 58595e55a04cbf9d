'use strict';
const at = id => document.getElementById(id);
const drop = at('drop'), error = at('error'), result = at('result');

fetch('healthz').then(answer => answer.json()).then(health => {
  at('model').textContent = health.model;
  at('about').textContent = `${health.task}, ${health.classes} classes, ${health.runtime} ${health.precision}`;
}).catch(() => {});

async function show(file) {
  drop.classList.add('busy');
  error.hidden = result.hidden = true;
  try {
    const sent = performance.now();
    const response = await fetch('predict', {method: 'POST', body: file});
    const answer = await response.json();
    if (!response.ok) throw new Error(typeof answer.detail === 'string' ? answer.detail : response.statusText);
    draw(file, answer, performance.now() - sent);
  } catch (e) {
    error.textContent = e instanceof TypeError ? 'The server does not answer.' : e.message;
    error.hidden = false;
  }
  drop.classList.remove('busy');
}

function draw(file, answer, total) {
  URL.revokeObjectURL(at('photo').src);
  at('photo').src = URL.createObjectURL(file);
  at('mask').hidden = !answer.mask;
  if (answer.mask) at('mask').src = answer.mask;
  at('classes').replaceChildren(...answer.classes.map(one => {
    const row = document.createElement('li'), name = document.createElement('span');
    const percent = document.createElement('span'), bar = document.createElement('progress');
    name.textContent = one.class_name;
    const value = one.probability ?? one.fraction;
    percent.textContent = `${(100 * value).toFixed(1)} %`;
    bar.value = value;
    if (answer.mask) bar.style.accentColor = one.color || 'grey';
    row.append(name, percent, bar);
    return row;
  }));
  const {decode, network} = answer.milliseconds;
  at('latency').textContent =
    `network ${network.toFixed(1)} ms, decoding ${decode.toFixed(1)} ms, in all ${total.toFixed(0)} ms`;
  result.hidden = false;
}

at('file').addEventListener('change', event => {
  const [file] = event.target.files;
  if (file) show(file);
  event.target.value = '';  // so that the same picture can be chosen again
});
drop.addEventListener('keydown', event => { if (event.key === 'Enter' || event.key === ' ') at('file').click(); });
for (const name of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(name, event => {
    event.preventDefault();
    drop.classList.toggle('over', name === 'dragover');
    if (name === 'drop' && event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
  });
}
