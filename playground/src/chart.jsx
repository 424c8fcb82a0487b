/** Entropy and temperature of each token, drawn while the answer streams. */

import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { fixed, mean } from './answer.js';

const HEIGHT = 150;

export function Chart({ answer }) {
  const box = useRef(null);
  const plot = useRef(null);
  useEffect(() => {
    const element = box.current;
    plot.current = new uPlot(options(element), columns(answer), element);
    const sizes = new ResizeObserver(() => {
      plot.current.setSize({ width: element.clientWidth, height: HEIGHT });
    });
    sizes.observe(element);
    const scheme = matchMedia('(prefers-color-scheme: dark)');
    const redraw = () => plot.current.redraw();
    scheme.addEventListener('change', redraw);
    return () => {
      scheme.removeEventListener('change', redraw);
      sizes.disconnect();
      plot.current.destroy();
    };
  }, []);
  useEffect(() => plot.current.setData(columns(answer)));
  const { tokens } = answer;
  const h = fixed(mean(tokens.map((one) => one.entropy)));
  const t = fixed(mean(tokens.map((one) => one.temperature)));
  return (
    <figure>
      <figcaption>
        <span class="h">H, nats (line)</span> <span class="t">T (dashed)</span>
      </figcaption>
      <div
        ref={box}
        class="chart"
        role="img"
        aria-label={`Entropy and temperature of ${tokens.length} tokens: mean H ${h} nats, mean T ${t}`}
      />
    </figure>
  );
}

function columns({ tokens }) {
  return [
    tokens.map((_, i) => i + 1),
    tokens.map((one) => one.entropy),
    tokens.map((one) => one.temperature),
  ];
}

function options(element) {
  const color = (name) => () => getComputedStyle(element).getPropertyValue(name);
  const axis = (more) => ({ stroke: color('--soft'), grid: { stroke: color('--line'), width: 1 }, ...more });
  const fromZero = (_, low, high) => [0, Math.max(high ?? 1, 0.5) * 1.05];
  return {
    width: element.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: false }, h: { range: fromZero }, t: { range: fromZero } },
    series: [
      {},
      { scale: 'h', stroke: color('--h'), width: 2, points: { show: false } },
      { scale: 't', stroke: color('--t'), width: 2, dash: [6, 4], points: { show: false } },
    ],
    axes: [
      axis({}),
      axis({ scale: 'h', size: 44 }),
      axis({ scale: 't', side: 1, size: 44, grid: { show: false } }),
    ],
  };
}
